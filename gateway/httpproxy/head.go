package httpproxy

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// A HeadError says why a request, or a part of one, was turned away, and with
// which status code.
type HeadError struct {
	Status int
	Detail string
}

func (e *HeadError) Error() string { return "malformed request: " + e.Detail }

func bad(format string, args ...any) *HeadError {
	return &HeadError{Status: http.StatusBadRequest, Detail: fmt.Sprintf(format, args...)}
}

// Field is one header field: the name as written, the value without the white
// space around it.
type Field struct{ Name, Value string }

// Head is the head of one request: all before the body. What it holds passed
// the grammar of RFC 9112, strictly read.
type Head struct {
	Method    string
	Target    string // the request target as written
	Form      Form
	Host      string // of the target: a name as written, or an address without brackets
	Port      uint16
	Path      string // absolute-form: path and query as written; "" if there is none
	Minor     int    // 0 or 1 of HTTP/1.x
	HostField string // host of the Host field, without its port; "" if there is none
	Fields    []Field
	Length    int64 // of the body; -1 if it is chunked
	WebSocket bool  // asks to go on as WebSocket (RFC 6455 section 4.1)
}

// Get returns the value of the first field of that name, or "".
func (h *Head) Get(name string) string {
	for i := range h.Fields {
		if strings.EqualFold(h.Fields[i].Name, name) {
			return h.Fields[i].Value
		}
	}
	return ""
}

// Header returns the fields as net/http has them.
func (h *Head) Header() http.Header {
	header := make(http.Header, len(h.Fields))
	for _, f := range h.Fields {
		header.Add(f.Name, f.Value)
	}
	return header
}

// names reports whether an element of the comma-separated fields is word.
func (h *Head) names(field, word string) bool {
	for i := range h.Fields {
		if strings.EqualFold(h.Fields[i].Name, field) && listHas(h.Fields[i].Value, word) {
			return true
		}
	}
	return false
}

func listHas(list, word string) bool {
	for element := range strings.SplitSeq(list, ",") {
		if strings.EqualFold(strings.Trim(element, " \t"), word) {
			return true
		}
	}
	return false
}

// ParseHead parses a whole request head, from the method to the empty line.
// It fails with a *HeadError. Refused are all shapes that two readers could
// take for two things: RFC 9112 lets a recipient repair many of them, but a
// gate that repairs what it decides on decides on something else.
func ParseHead(head string) (*Head, error) {
	text, ok := strings.CutSuffix(head, "\r\n\r\n")
	if !ok {
		return nil, bad("the head does not end in an empty line")
	}
	line, rest, more := strings.Cut(text, "\r\n")
	h := &Head{}
	if err := h.requestLine(line); err != nil {
		return nil, err
	}
	if more {
		h.Fields = make([]Field, 0, strings.Count(rest, "\r\n")+1)
	}
	for more {
		line, rest, more = strings.Cut(rest, "\r\n")
		f, err := parseField(line)
		if err != nil {
			return nil, err
		}
		h.Fields = append(h.Fields, f)
	}
	if err := h.hostField(); err != nil {
		return nil, err
	}
	if err := h.framing(); err != nil {
		return nil, err
	}
	return h, h.upgrade()
}

// requestLine parses method, target and version (RFC 9112 section 3).
func (h *Head) requestLine(line string) error {
	method, rest, ok := strings.Cut(line, " ")
	if !ok || !isToken(method) {
		return bad("the request line does not begin with a method")
	}
	target, version, ok := strings.Cut(rest, " ")
	switch {
	case !ok:
		return bad("the request line has no version: HTTP/0.9 is not spoken here")
	case version == "HTTP/1.1":
		h.Minor = 1
	case version == "HTTP/1.0":
	case len(version) == 8 && strings.HasPrefix(version, "HTTP/") && version[6] == '.':
		return &HeadError{http.StatusHTTPVersionNotSupported, fmt.Sprintf("version %q: use HTTP/1.1", version)}
	default:
		return bad("the request line does not end in a version")
	}
	h.Method, h.Target = method, target
	return h.target()
}

// parseField parses one field line (RFC 9112 section 5). It refuses line
// folding and white space before the colon, which section 5.1 names as a way
// to smuggle requests.
func parseField(line string) (Field, error) {
	if line == "" || line[0] == ' ' || line[0] == '\t' {
		return Field{}, bad("a folded header line")
	}
	name, value, ok := strings.Cut(line, ":")
	if !ok {
		return Field{}, bad("a header line without a colon")
	}
	if !isToken(name) {
		return Field{}, bad("a header name that is no token: %.64q", name)
	}
	value = strings.Trim(value, " \t")
	for i := 0; i < len(value); i++ {
		if c := value[i]; c < ' ' && c != '\t' || c == 0x7f {
			return Field{}, bad("a control character in the value of %.64q", name)
		}
	}
	return Field{name, value}, nil
}

// hostField checks the Host field (RFC 9112 section 3.2).
func (h *Head) hostField() error {
	n := 0
	for i := range h.Fields {
		if !strings.EqualFold(h.Fields[i].Name, "Host") {
			continue
		}
		if n++; n > 1 {
			return bad("more than one Host")
		}
		value := h.Fields[i].Value
		if value == "" && h.Form == FormAuthority {
			continue
		}
		host, _, err := parseAuthority(value, 0)
		if err != nil {
			return bad("Host: %s", err.Detail)
		}
		h.HostField = host
	}
	if n == 0 && h.Minor > 0 {
		return bad("no Host in an HTTP/1.1 request")
	}
	return nil
}

// framing reads how long the body is (RFC 9112 section 6). What is not told
// apart by one field alone is refused.
func (h *Head) framing() error {
	lengths, codings := 0, 0
	for i := range h.Fields {
		switch f := &h.Fields[i]; {
		case strings.EqualFold(f.Name, "Content-Length"):
			lengths++
			n, ok := parseLength(f.Value)
			if !ok {
				return bad("a Content-Length that is no number: %.64q", f.Value)
			}
			h.Length = n
		case strings.EqualFold(f.Name, "Expect") && !strings.EqualFold(f.Value, "100-continue"):
			// net/http would answer by itself, and there would be no record.
			return &HeadError{http.StatusExpectationFailed, fmt.Sprintf("Expect %.64q: only 100-continue is known", f.Value)}
		case strings.EqualFold(f.Name, "Trailer"):
			for name := range strings.SplitSeq(f.Value, ",") {
				if err := parseTrailer(strings.Trim(name, " \t") + ":"); err != nil {
					return err // as above
				}
			}
		case strings.EqualFold(f.Name, "Transfer-Encoding"):
			codings++
			if !strings.EqualFold(f.Value, "chunked") {
				return &HeadError{http.StatusNotImplemented, fmt.Sprintf("Transfer-Encoding %.64q: only chunked is known", f.Value)}
			}
		}
	}
	switch {
	case lengths > 1:
		return bad("more than one Content-Length")
	case codings > 1:
		return bad("more than one Transfer-Encoding")
	case codings > 0 && lengths > 0:
		return bad("Content-Length beside Transfer-Encoding")
	case codings > 0 && h.Minor == 0:
		return bad("Transfer-Encoding in HTTP/1.0")
	case codings > 0:
		h.Length = -1
	}
	if h.Method == http.MethodConnect && h.Length != 0 {
		return bad("CONNECT with a body")
	}
	return nil
}

func parseLength(s string) (int64, bool) {
	if s == "" || len(s) > 18 {
		return 0, false
	}
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

func (h *Head) upgrade() error {
	if h.Method != http.MethodGet || h.Minor == 0 || !h.names("Connection", "upgrade") || !h.names("Upgrade", "websocket") {
		return nil
	}
	if h.Length != 0 {
		return bad("a WebSocket upgrade with a body")
	}
	h.WebSocket = true
	return nil
}

// isToken reports whether s is a token (RFC 9110 section 5.6.2).
func isToken(s string) bool {
	for i := 0; i < len(s); i++ {
		if !tokenByte[s[i]] {
			return false
		}
	}
	return s != ""
}

var tokenByte = func() (t [256]bool) {
	for c := range 128 {
		t[c] = c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' ||
			strings.IndexByte("!#$%&'*+-.^_`|~", byte(c)) >= 0
	}
	return t
}()

// headScan looks for the end of a head in bytes that are still coming in.
// Each byte is looked at once, however small the pieces.
type headScan struct {
	at      int  // all before was looked at
	line    int  // where the request line ends; 0: not seen
	checked bool // the request line is fit
}

// next looks on in b, which holds what it held before, and more. It returns
// the length of the head, or 0 if more is needed. What can not become a head
// any more is refused at once, since its sender will wait for an answer.
func (s *headScan) next(b []byte) (int, *HeadError) {
	for ; s.at < len(b); s.at++ {
		switch c := b[s.at]; {
		case c == '\n':
			if s.at == 0 || b[s.at-1] != '\r' {
				return 0, bad("a line that ends in a bare LF")
			}
			if s.line == 0 {
				s.line = s.at - 1
			}
			if s.at >= 3 && b[s.at-3] == '\r' {
				return s.at + 1, nil
			}
		case s.at > 0 && b[s.at-1] == '\r':
			return 0, bad("a bare CR")
		case c < ' ' && c != '\r' && c != '\t' || c == 0x7f:
			return 0, bad("a control character in the head")
		}
	}
	if s.line > 0 && !s.checked {
		s.checked = true
		fault := (*HeadError)(nil)
		if errors.As(new(Head).requestLine(string(b[:s.line])), &fault) {
			return 0, fault
		}
	}
	return 0, nil
}
