package httpproxy

import "strings"

const (
	maxChunkLine = 256     // a size has at most 16 digits; the rest is for extensions
	maxTrailer   = 8 << 10 // all trailer lines of one message
)

// parseChunkLine reads the line before a chunk, without its CRLF (RFC 9112
// section 7.1). Extensions are let through in their plain form, token=token:
// quoted ones can hide a line end from one of two readers, and no client that
// we know of sends them.
func parseChunkLine(line string) (int64, error) {
	size, extensions, extended := strings.Cut(line, ";")
	if size == "" || len(size) > 15 {
		return 0, bad("a chunk without a usable size")
	}
	var n int64
	for i := 0; i < len(size); i++ {
		c := size[i]
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, bad("a chunk size that is no hexadecimal number: %.32q", size)
		}
		n = n<<4 | int64(c)
	}
	for extended {
		var one string
		one, extensions, extended = strings.Cut(extensions, ";")
		name, value, valued := strings.Cut(one, "=")
		if !isToken(name) || valued && !isToken(value) {
			return 0, bad("a chunk extension that is not token=token")
		}
	}
	return n, nil
}

// parseTrailer checks one trailer line. Fields that frame or route a message,
// or say who sends it, have no business behind it (RFC 9110 section 6.5.1).
func parseTrailer(line string) error {
	f, err := parseField(line)
	if err != nil {
		return err
	}
	switch strings.ToLower(f.Name) {
	case "host", "content-length", "transfer-encoding", "trailer", "connection", "te", "upgrade", "via",
		"authorization", "cookie", "proxy-authorization", "proxy-connection", "content-encoding", "content-type", "content-range", "expect":
		return bad("%s in a trailer", f.Name)
	}
	return nil
}
