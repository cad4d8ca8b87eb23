package sniff

import "golang.org/x/crypto/cryptobyte"

// Extensions of a ClientHello that are looked into.
const (
	extServerName        = 0  // RFC 6066 section 3
	extALPN              = 16 // RFC 7301
	extPreSharedKey      = 41
	extSupportedVersions = 43
	extECH               = 0xfe0d // RFC 9849
)

// maxStrange bounds the extensions with numbers of 64 and over. Clients have
// about five, with GREASE (RFC 8701).
const maxStrange = 32

// seen notes which extensions were there, without allocating.
type seen struct {
	low     uint64 // bit n: extension n
	strange [maxStrange]uint16
	n       int
}

// add notes an extension, and says what is wrong with it.
func (s *seen) add(ext uint16) Why {
	if ext < 64 {
		if s.low&(1<<ext) != 0 {
			return WhyDuplicate
		}
		s.low |= 1 << ext
		return ""
	}
	for _, have := range s.strange[:s.n] {
		if have == ext {
			return WhyDuplicate
		}
	}
	if s.n == maxStrange {
		return WhyExtensions
	}
	s.strange[s.n] = ext
	s.n++
	return ""
}

// extensions reads the list of extensions into h, and says what is wrong
// with it.
func (h *Hello) extensions(s cryptobyte.String) Why {
	var seen seen
	for !s.Empty() {
		var ext uint16
		var body cryptobyte.String
		if !s.ReadUint16(&ext) || !s.ReadUint16LengthPrefixed(&body) {
			return WhyMalformed
		}
		why := seen.add(ext)
		if why == "" {
			why = h.extension(ext, body, s.Empty())
		}
		if why != "" {
			return why
		}
	}
	return ""
}

func (h *Hello) extension(ext uint16, body cryptobyte.String, last bool) Why {
	switch ext {
	case extServerName:
		return h.serverName(body)
	case extALPN:
		return h.alpn(body)
	case extSupportedVersions:
		return h.versions(body)
	case extECH:
		h.ECH = true
	case extPreSharedKey:
		if !last { // RFC 8446 section 4.2.11
			return WhyMalformed
		}
	}
	return ""
}

func (h *Hello) serverName(body cryptobyte.String) Why {
	const hostName = 0
	var list, name cryptobyte.String
	var kind uint8
	if !body.ReadUint16LengthPrefixed(&list) || !body.Empty() {
		return WhyMalformed
	}
	if list.Empty() {
		return WhyNameList
	}
	if !list.ReadUint8(&kind) || !list.ReadUint16LengthPrefixed(&name) {
		return WhyMalformed
	}
	if kind != hostName || !list.Empty() {
		return WhyNameList
	}
	if why := checkName(name); why != "" {
		return why
	}
	h.ServerName, h.HasServerName = name, true
	return ""
}

func (h *Hello) alpn(body cryptobyte.String) Why {
	var list, proto cryptobyte.String
	if !body.ReadUint16LengthPrefixed(&list) || !body.Empty() || list.Empty() {
		return WhyMalformed
	}
	for !list.Empty() {
		if !list.ReadUint8LengthPrefixed(&proto) || proto.Empty() {
			return WhyMalformed
		}
		if h.ALPN == nil {
			h.ALPN = proto
		}
	}
	return ""
}

// versions takes the highest version offered. With this extension the one in
// the message's head no longer counts (RFC 8446 section 4.2.1).
func (h *Hello) versions(body cryptobyte.String) Why {
	var list cryptobyte.String
	if !body.ReadUint8LengthPrefixed(&list) || !body.Empty() || list.Empty() || len(list)%2 != 0 {
		return WhyMalformed
	}
	h.MaxVersion = 0
	for !list.Empty() {
		var v uint16
		list.ReadUint16(&v)
		if v>>8 == majorVersion { // GREASE values have other first bytes
			h.MaxVersion = max(h.MaxVersion, v)
		}
	}
	if h.MaxVersion < 0x0301 {
		return WhyVersion
	}
	return ""
}

// maxName is the longest server name that is looked at: that of a name in DNS
// (RFC 1035 section 2.3.4). Policy is stricter still.
const maxName = 255

// checkName refuses what can be no host name, and what could be read as
// another name by someone who cuts it at a byte like NUL.
func checkName(name []byte) Why {
	if len(name) == 0 || len(name) > maxName {
		return WhyName
	}
	for _, c := range name {
		if !nameByte(c) {
			return WhyName
		}
	}
	if endsInNumber(name) {
		return WhyNameAddress
	}
	return ""
}

func nameByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '-' || c == '.' || c == '_'
}

// endsInNumber reports whether the last label, a trailing dot apart, is a
// number in decimal, octal or hexadecimal: such a name is an IPv4 address in
// one of its many spellings to someone, and no top-level domain is a number.
func endsInNumber(name []byte) bool {
	if name[len(name)-1] == '.' {
		name = name[:len(name)-1]
	}
	for i := len(name) - 1; i >= 0; i-- {
		if name[i] == '.' {
			name = name[i+1:]
			break
		}
	}
	hex := len(name) >= 2 && name[0] == '0' && name[1]|0x20 == 'x'
	if hex {
		name = name[2:]
	}
	for _, c := range name {
		if digit := '0' <= c && c <= '9'; !digit && !(hex && 'a' <= c|0x20 && c|0x20 <= 'f') {
			return false
		}
	}
	return hex || len(name) > 0
}
