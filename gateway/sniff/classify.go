package sniff

import "encoding/binary"

// Kind says what the first bytes of a connection look like.
type Kind uint8

// The kinds.
const (
	KindNeedMore Kind = iota // more bytes could still change the answer
	KindTLS                  // a TLS handshake record
	KindHTTP                 // an HTTP/1 request line, or the preface of HTTP/2
	KindSOCKS5               // a SOCKS version 5 greeting (RFC 1928 section 3)
	KindSOCKS4               // a SOCKS version 4 or 4a request
	KindSTUN                 // a STUN or TURN message (RFC 8489 section 5)
	KindOpaque               // none of the above
)

// String returns the kind in one lower-case word.
func (k Kind) String() string {
	switch k {
	case KindNeedMore:
		return "need_more"
	case KindTLS:
		return "tls"
	case KindHTTP:
		return "http"
	case KindSOCKS5:
		return "socks5"
	case KindSOCKS4:
		return "socks4"
	case KindSTUN:
		return "stun"
	}
	return "opaque"
}

// maxMethod bounds the method of a request line. The longest registered one,
// UPDATEREDIRECTREF, has 17 bytes.
const maxMethod = 20

// MaxClassify is the most bytes that Classify needs for an answer other than
// KindNeedMore: a method and the space behind it.
const MaxClassify = maxMethod + 1

// Classify says what a connection that begins with b speaks. It answers
// KindNeedMore only while b is shorter than MaxClassify and more bytes could
// still change the answer; any other answer is final.
func Classify(b []byte) Kind {
	if len(b) == 0 {
		return KindNeedMore
	}
	switch first := b[0]; {
	case first == recordHandshake:
		return second(b, KindTLS, func(c byte) bool { return c == majorVersion })
	case first <= 3:
		return classifySTUN(b)
	case first == 4:
		return second(b, KindSOCKS4, func(c byte) bool { return c == 1 || c == 2 }) // CONNECT, BIND
	case first == 5:
		return KindSOCKS5
	}
	return classifyHTTP(b)
}

// second returns k if the second byte is fit for it.
func second(b []byte, k Kind, fit func(byte) bool) Kind {
	switch {
	case len(b) < 2:
		return KindNeedMore
	case fit(b[1]):
		return k
	}
	return KindOpaque
}

// stunCookie is the magic cookie of RFC 8489 section 5.
const stunCookie = 0x2112A442

func classifySTUN(b []byte) Kind {
	if len(b) >= 4 && b[3]%4 != 0 { // the length counts whole words
		return KindOpaque
	}
	var cookie [4]byte
	binary.BigEndian.PutUint32(cookie[:], stunCookie)
	for i, want := range cookie {
		if len(b) <= 4+i {
			return KindNeedMore
		}
		if b[4+i] != want {
			return KindOpaque
		}
	}
	return KindSTUN
}

// classifyHTTP looks for a method and the space behind it. A method may be any
// token (RFC 9110 section 9.1), but those that exist are letters and hyphens,
// and the greeting of SSH is a token too.
func classifyHTTP(b []byte) Kind {
	for i, c := range b {
		switch {
		case c == ' ' && i > 0:
			return KindHTTP
		case i >= maxMethod || !methodByte(c):
			return KindOpaque
		}
	}
	return KindNeedMore
}

func methodByte(c byte) bool {
	return 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || c == '-' || c == '_'
}
