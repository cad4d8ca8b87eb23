package httpproxy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"sluice/gateway/flow"
	"sluice/policy"
)

// answer is what the door itself says to a client, in the place of an origin
// server.
type answer struct {
	Status int           `json:"status"`
	Error  string        `json:"error"` // RFC 9209 section 2.3
	Reason policy.Reason `json:"reason,omitempty"`
	Detail string        `json:"detail,omitempty"`
	Host   string        `json:"host,omitempty"`
	Rule   string        `json:"rule,omitempty"`
	Owner  string        `json:"owner,omitempty"`
	Record string        `json:"record,omitempty"`
	line   string        // for people
	header http.Header   // what goes with the status
}

// refusals maps the reasons to status codes and RFC 9209 error types. What
// policy refuses is 403, also where section 2.3 suggests 502
// (destination_ip_prohibited): a 5xx invites clients to try again.
var refusals = map[policy.Reason]struct {
	status int
	token  string
}{
	policy.ReasonForbiddenAddress: {http.StatusForbidden, "destination_ip_prohibited"},
	policy.ReasonLoop:             {http.StatusBadGateway, "proxy_loop_detected"},
	policy.ReasonMalformedRequest: {http.StatusBadRequest, "http_request_error"},
	policy.ReasonLimit:            {http.StatusTooManyRequests, "connection_limit_reached"},
}

// denied says that a flow may not leave.
func (d *Door) denied(e *flow.DeniedError, f *flow.Flow) answer {
	dec := e.Decision
	a := answer{
		Status: http.StatusForbidden, Error: "http_request_denied",
		Reason: dec.Reason, Detail: dec.Detail, Host: destination(f), Record: e.ID.String(),
		line: "The egress gateway did not let this request out.", header: http.Header{},
	}
	if r, ok := refusals[dec.Reason]; ok {
		a.Status, a.Error = r.status, r.token
	}
	switch {
	case dec.Reason == policy.ReasonUnauthenticated && len(d.o.Challenges) > 0:
		// 407 without a challenge makes some clients give up the proxy.
		a.Status, a.header["Proxy-Authenticate"] = http.StatusProxyAuthRequired, d.o.Challenges
	case dec.Reason == policy.ReasonLimit:
		a.header.Set("Retry-After", "1")
	}
	if dec.Rule != nil {
		a.Rule, a.Owner = dec.Rule.Name, dec.Rule.Owner
	}
	return a
}

// failed says that an admitted flow came to nothing.
func failed(err error, f *flow.Flow) answer {
	a := answer{
		Status: http.StatusBadGateway, Error: "destination_unavailable", Host: destination(f),
		Record: f.ID.String(), line: "The egress gateway could not reach the destination.",
	}
	if e := (*flow.UnreachableError)(nil); errors.As(err, &e) {
		a.Status, a.Detail = e.HTTPStatus(), e.Err.Error()
		if e.Code != "" {
			a.Error = e.Code
		}
	} else if err != nil {
		a.Detail = err.Error()
	}
	return a
}

// malformed says that a request could not be read.
func malformed(e *HeadError, record flow.ID) answer {
	a := answer{
		Status: e.Status, Error: "http_request_error", Reason: policy.ReasonMalformedRequest,
		Detail: e.Detail, line: "The egress gateway could not read this request.",
	}
	if !record.IsZero() {
		a.Record = record.String()
	}
	return a
}

func destination(f *flow.Flow) string {
	if f.Host == "" {
		return ""
	}
	return net.JoinHostPort(f.Host, strconv.Itoa(int(f.Port)))
}

// fields returns the header and the body, in the type that the client asked
// for. Whatever came from the wire is quoted: a name can not end a line.
func (a *answer) fields(accept string) (http.Header, []byte) {
	header := http.Header{
		"Proxy-Status":           {proxyStatus(a.Error, a.summary())},
		"Cache-Control":          {"no-store"},
		"X-Content-Type-Options": {"nosniff"},
	}
	for name, values := range a.header {
		header[name] = values
	}
	var body []byte
	if strings.Contains(accept, "json") {
		header.Set("Content-Type", "application/json")
		body, _ = json.Marshal(a) // strings and numbers only
		body = append(body, '\n')
	} else {
		header.Set("Content-Type", "text/plain; charset=utf-8")
		body = a.text()
	}
	header.Set("Content-Length", strconv.Itoa(len(body)))
	return header, body
}

func (a *answer) summary() string {
	switch {
	case a.Reason == "":
		return a.Detail
	case a.Detail == "":
		return string(a.Reason)
	}
	return string(a.Reason) + ": " + a.Detail
}

func (a *answer) text() []byte {
	b := make([]byte, 0, 512)
	b = append(append(b, a.line...), "\n\n"...)
	for _, row := range [...]struct{ name, value string }{
		{"error", a.Error}, {"reason", string(a.Reason)}, {"detail", a.Detail}, {"host", a.Host},
		{"rule", a.Rule}, {"owner", a.Owner}, {"record", a.Record},
	} {
		if row.value != "" {
			b = append(append(b, row.name...), ": "...)
			b = append(append(b, printable(row.value)...), '\n')
		}
	}
	return b
}

// proxyStatus returns a Proxy-Status field value (RFC 9209 section 2).
func proxyStatus(token, details string) string {
	s := "sluice; error=" + token
	if details == "" {
		return s
	}
	return s + `; details="` + quoted.Replace(printable(details)) + `"`
}

// quoted escapes what a structured field string (RFC 8941 section 3.3.3) must.
var quoted = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

// printable replaces all but printable ASCII, and bounds the length.
func printable(s string) string {
	const most = 512
	if len(s) > most {
		s = s[:most]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}

// serve writes the answer by net/http.
func (a *answer) serve(w http.ResponseWriter, accept string, end bool) {
	header, body := a.fields(accept)
	for name, values := range header {
		w.Header()[name] = values
	}
	if end {
		w.Header().Set("Connection", "close")
	}
	control := http.NewResponseController(w)
	control.SetWriteDeadline(time.Now().Add(answerTime)) //nolint:errcheck // then the client holds itself up
	w.WriteHeader(a.Status)
	w.Write(body)                         //nolint:errcheck // the client's loss
	control.Flush()                       //nolint:errcheck // the next request has the error too
	control.SetWriteDeadline(time.Time{}) //nolint:errcheck // as above
}

// send writes the answer to a connection that net/http has no part in. The
// connection ends with it.
func (a *answer) send(c net.Conn, accept string) {
	header, body := a.fields(accept)
	header.Set("Connection", "close")
	header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	var b bytes.Buffer
	b.Grow(1 << 10)
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\n", a.Status, http.StatusText(a.Status))
	header.Write(&b) //nolint:errcheck // a Buffer does not fail
	b.WriteString("\r\n")
	b.Write(body)
	c.SetWriteDeadline(time.Now().Add(answerTime)) //nolint:errcheck // then the write fails
	c.Write(b.Bytes())                             //nolint:errcheck // the client's loss
}

// answerTime is how long a client may take to let a short answer into its
// socket.
const answerTime = 5 * time.Second
