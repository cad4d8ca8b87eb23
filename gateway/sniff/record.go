package sniff

// TLS records (RFC 8446 section 5.1), as far as a ClientHello needs them.
const (
	recordAlert     = 21
	recordHandshake = 22
	majorVersion    = 3 // of every version from SSL 3.0 to TLS 1.3

	recordHeader  = 5
	maxRecord     = 1 << 14
	messageHeader = 4
	clientHello   = 1 // handshake type
)

// MaxHello is the most bytes that a ClientHello may take, with the headers of
// its records: 64 KiB. Hellos with post-quantum keys and tickets have some
// 2,500.
const MaxHello = 64 << 10

// framing finds the end of a handshake message in a stream of records. It
// goes on where it stopped, so that a stream that grows is walked once.
type framing struct {
	next int // offset of the first record not yet complete
	have int // bytes of the message in the records before next
	want int // length of the message with its header; 0 until known
	head [messageHeader]byte
}

// scan looks at b, which begins as it did at the last call. It returns the
// length of the message's records if b holds them all. With ErrNeedMore it
// returns the length that b must have before another look is of use.
func (f *framing) scan(b []byte) (int, error) {
	for {
		rest := b[f.next:]
		length, err := recordLength(rest)
		if err == ErrNeedMore {
			return len(b) + 1, err
		}
		if err != nil {
			return 0, err
		}
		if err := f.message(rest[recordHeader:min(recordHeader+length, len(rest))]); err != nil {
			return 0, err
		}
		end := f.next + recordHeader + length
		if f.want != 0 && length > f.want-f.have {
			return 0, refuse(WhyTrailing)
		}
		if end > MaxHello || f.want != 0 && end+f.want-f.have-length > MaxHello {
			return 0, refuse(WhyTooLong)
		}
		if len(b) < end {
			if f.want == 0 {
				return len(b) + 1, ErrNeedMore
			}
			return end, ErrNeedMore
		}
		f.next, f.have = end, f.have+length
		if f.have == f.want {
			return end, nil
		}
	}
}

// message notes what body, the known part of the record at next, adds to the
// message's header.
func (f *framing) message(body []byte) error {
	if f.want != 0 {
		return nil
	}
	known := f.have + copy(f.head[f.have:], body)
	if known > 0 && f.head[0] != clientHello {
		return refuse(WhyNotClientHello)
	}
	if known == messageHeader {
		f.want = messageHeader + (int(f.head[1])<<16 | int(f.head[2])<<8 | int(f.head[3]))
	}
	return nil
}

// recordLength reads a record's header as far as it is there, and refuses it
// at the first byte that is wrong.
func recordLength(b []byte) (int, error) {
	if len(b) > 0 && b[0] != recordHandshake {
		if b[0]&0x80 != 0 {
			return 0, refuse(WhySSLv2)
		}
		return 0, refuse(WhyNotHandshake)
	}
	if len(b) > 1 && b[1] != majorVersion {
		return 0, refuse(WhyVersion)
	}
	if len(b) < recordHeader {
		return 0, ErrNeedMore
	}
	length := int(b[3])<<8 | int(b[4])
	switch {
	case length == 0:
		return 0, refuse(WhyEmptyRecord)
	case length > maxRecord:
		return 0, refuse(WhyRecordOverflow)
	}
	return length, nil
}

// join returns the payload of the records that make up b. It copies only if
// there are several.
func join(b []byte) []byte {
	if length := int(b[3])<<8 | int(b[4]); recordHeader+length == len(b) {
		return b[recordHeader:]
	}
	whole := make([]byte, 0, len(b))
	for len(b) > 0 {
		end := recordHeader + (int(b[3])<<8 | int(b[4]))
		whole = append(whole, b[recordHeader:end]...)
		b = b[end:]
	}
	return whole
}
