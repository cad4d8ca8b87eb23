package socks5

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

const version = 5

// Authentication methods (RFC 1928 section 3).
const (
	methodNone     = 0x00
	methodPassword = 0x02 // RFC 1929
	methodRefused  = 0xff
)

// Commands (RFC 1928 section 4).
const (
	commandConnect   = 1
	commandBind      = 2
	commandAssociate = 3
)

// Address types (RFC 1928 section 5).
const (
	addressIPv4 = 1
	addressName = 3
	addressIPv6 = 4
)

// reply is the second byte of an answer to a request (RFC 1928 section 6).
type reply byte

const (
	replySucceeded       reply = 0x00
	replyGeneral         reply = 0x01
	replyDenied          reply = 0x02
	replyNetUnreachable  reply = 0x03
	replyHostUnreachable reply = 0x04
	replyRefused         reply = 0x05
	replyExpired         reply = 0x06 // TTL expired; used for time-outs
	replyCommand         reply = 0x07
	replyAddressType     reply = 0x08
)

// errNeedMore says that the bytes begin like a message that goes on.
var errNeedMore = errors.New("incomplete message")

// request is what a client asks for.
type request struct {
	command byte
	host    string // a name as the client gave it, or an address
	port    uint16
}

// requestError says why a request is not served, and what to answer.
type requestError struct {
	reply reply
	why   string
}

func (e *requestError) Error() string { return e.why }

// parseRequest parses the request at the start of b and returns its length.
// The error is errNeedMore if b ends before it does, else a *requestError.
// The reserved byte is not looked at: some clients leave rubbish in it.
func parseRequest(b []byte) (request, int, error) {
	if len(b) > 0 && b[0] != version {
		return request{}, 0, &requestError{replyGeneral, fmt.Sprintf("version %d in a SOCKS5 request", b[0])}
	}
	if len(b) < 5 { // the shortest address has a byte at 4
		return request{}, 0, errNeedMore
	}
	r := request{command: b[1]}
	from := 4
	var to int
	switch b[3] {
	case addressIPv4:
		to = from + 4
	case addressIPv6:
		to = from + 16
	case addressName:
		from, to = 5, 5+int(b[4])
		if from == to {
			return request{}, 0, &requestError{replyGeneral, "empty name in a SOCKS5 request"}
		}
	default:
		return request{}, 0, &requestError{replyAddressType, fmt.Sprintf("address type %d in a SOCKS5 request", b[3])}
	}
	if len(b) < to+2 {
		return request{}, 0, errNeedMore
	}
	if b[3] == addressName {
		r.host = string(b[from:to])
	} else {
		addr, _ := netip.AddrFromSlice(b[from:to]) // 4 or 16 bytes
		r.host = addr.String()
	}
	r.port = binary.BigEndian.Uint16(b[to:])
	return r, to + 2, nil
}

// answer is the reply to a request. The address the gateway dialled from is
// none of the client's business and left zero, as most servers do.
func answer(r reply) []byte {
	return []byte{version, byte(r), 0, addressIPv4, 0, 0, 0, 0, 0, 0}
}
