package sniff

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/crypto/cryptobyte"
)

// Hello is what a ClientHello says in clear. Its slices are views into the
// bytes that were parsed, and are valid as long as those.
type Hello struct {
	ServerName    []byte // the host_name, as sent; at least one byte if HasServerName
	HasServerName bool
	ALPN          []byte // the first protocol offered; nil if there is none
	ECH           bool   // encrypted_client_hello is there, GREASE or real (RFC 9849); ServerName is the outer one
	MaxVersion    uint16 // the highest version offered, GREASE apart, such as 0x0304 for TLS 1.3
}

// ErrNeedMore says that the bytes begin like a ClientHello that goes on.
var ErrNeedMore = errors.New("incomplete ClientHello")

// Why is the closed vocabulary of why a ClientHello is refused.
type Why string

// The reasons to refuse a ClientHello.
const (
	WhySSLv2          Why = "sslv2"               // the first byte is that of an SSL 2.0 record
	WhyNotHandshake   Why = "not_handshake"       // a record of another type, first or in between
	WhyVersion        Why = "version"             // not TLS 1.0 to 1.3
	WhyEmptyRecord    Why = "empty_record"        // RFC 8446 section 5.1 forbids them
	WhyRecordOverflow Why = "record_overflow"     // a record over 16 KiB
	WhyNotClientHello Why = "not_client_hello"    // another handshake message first
	WhyTooLong        Why = "too_long"            // over MaxHello
	WhyTrailing       Why = "trailing"            // more bytes behind the ClientHello in its record
	WhyMalformed      Why = "malformed"           // lengths that disagree, or bytes left over
	WhyDuplicate      Why = "duplicate_extension" // an extension twice (RFC 8446 section 4.2)
	WhyExtensions     Why = "too_many_extensions" // more unknown ones than any client has
	WhyNameList       Why = "server_name_list"    // not exactly one name, or not of type host_name
	WhyName           Why = "server_name"         // bytes that are in no host name, or over 255 of them
	WhyNameAddress    Why = "server_name_address" // an address as server name (RFC 6066 section 3 forbids it)
)

// HelloError says why a ClientHello is refused, and the TLS alert to answer.
type HelloError struct {
	Why   Why
	Alert Alert
}

func (e *HelloError) Error() string { return "refused ClientHello: " + string(e.Why) }

// BadName reports whether it is the server name that is wrong, and not the
// message around it.
func (e *HelloError) BadName() bool {
	return e.Why == WhyName || e.Why == WhyNameAddress || e.Why == WhyNameList
}

func refuse(why Why) *HelloError {
	alert := AlertDecodeError
	switch why {
	case WhySSLv2, WhyVersion:
		alert = AlertProtocolVersion
	case WhyNotHandshake, WhyEmptyRecord, WhyNotClientHello, WhyTrailing:
		alert = AlertUnexpectedMessage
	case WhyRecordOverflow:
		alert = AlertRecordOverflow
	case WhyDuplicate, WhyExtensions, WhyNameList, WhyName, WhyNameAddress:
		alert = AlertIllegalParameter
	}
	return &HelloError{Why: why, Alert: alert}
}

// ParseClientHello parses the ClientHello at the start of a stream of TLS
// records (RFC 8446 sections 4.1.2 and 5.1), over how many records it may be
// split. It returns how many bytes of b the hello takes. The error is
// ErrNeedMore if b ends before the hello does, and then the number is the
// length that b must have before another call is of use; else it is a
// *HelloError. What is inside the message is judged when all of it is there,
// so the verdict depends on the bytes alone and not on how they arrive.
// It allocates nothing unless the hello is split over records, or refused.
func ParseClientHello(b []byte) (Hello, int, error) {
	var f framing
	n, err := f.scan(b)
	if err != nil {
		return Hello{}, n, err
	}
	h, err := parseMessage(join(b[:n]))
	if err != nil {
		return Hello{}, 0, err
	}
	return h, n, nil
}

// ReadClientHello waits for a whole ClientHello at the start of c and parses
// it; c still gives out every byte. The caller sets one read deadline for all
// of it. The error is a *HelloError; io.EOF if the client closed without a
// byte, io.ErrUnexpectedEOF if it closed within the hello; else what reading c
// failed with. The Hello is valid until the next call on c.
func ReadClientHello(c *Conn) (Hello, error) {
	var f framing
	for {
		n, err := f.scan(c.Buffered())
		if err == nil {
			return parseMessage(join(c.Buffered()[:n]))
		}
		if err != ErrNeedMore {
			return Hello{}, err
		}
		got, err := c.Peek(n)
		if errors.Is(err, io.EOF) && len(got) > 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return Hello{}, fmt.Errorf("read ClientHello: %w", err)
		}
	}
}

// parseMessage parses a whole handshake message.
func parseMessage(b []byte) (Hello, error) {
	var h Hello
	s := cryptobyte.String(b[messageHeader:])
	var random []byte
	var session, suites, compressions, extensions cryptobyte.String
	if !s.ReadUint16(&h.MaxVersion) || !s.ReadBytes(&random, 32) ||
		!s.ReadUint8LengthPrefixed(&session) || len(session) > 32 ||
		!s.ReadUint16LengthPrefixed(&suites) || len(suites) == 0 || len(suites)%2 != 0 ||
		!s.ReadUint8LengthPrefixed(&compressions) || len(compressions) == 0 {
		return Hello{}, refuse(WhyMalformed)
	}
	if h.MaxVersion>>8 != majorVersion || h.MaxVersion < 0x0301 {
		return Hello{}, refuse(WhyVersion)
	}
	if s.Empty() { // TLS 1.0 and 1.1 clients may have no extensions at all
		return h, nil
	}
	if !s.ReadUint16LengthPrefixed(&extensions) || !s.Empty() {
		return Hello{}, refuse(WhyMalformed)
	}
	if why := h.extensions(extensions); why != "" {
		return Hello{}, refuse(why)
	}
	return h, nil
}
