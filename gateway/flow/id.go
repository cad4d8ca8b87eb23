package flow

import (
	"crypto/rand"
	"encoding/binary"
	"time"
)

// ID names a flow. It is a UUID version 7 (RFC 9562 section 5.7): unique
// without coordination, and sorted by time to the millisecond.
type ID [16]byte

// NewID makes an ID for a flow that begins at t.
func NewID(t time.Time) ID {
	var id ID
	rand.Read(id[6:])
	ms := uint64(t.UnixMilli())
	binary.BigEndian.PutUint32(id[:4], uint32(ms>>16))
	binary.BigEndian.PutUint16(id[4:6], uint16(ms))
	id[6] = id[6]&0x0f | 0x70
	id[8] = id[8]&0x3f | 0x80
	return id
}

// IsZero reports whether the ID was never set.
func (id ID) IsZero() bool { return id == ID{} }

// String returns the usual 36-character form.
func (id ID) String() string {
	b, _ := id.MarshalText()
	return string(b)
}

// MarshalText implements encoding.TextMarshaler. It never fails.
func (id ID) MarshalText() ([]byte, error) {
	const hex = "0123456789abcdef"
	b := make([]byte, 0, 36)
	for i, c := range id {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			b = append(b, '-')
		}
		b = append(b, hex[c>>4], hex[c&15])
	}
	return b, nil
}
