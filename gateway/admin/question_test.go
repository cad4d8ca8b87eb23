package admin

import (
	"testing"
	"time"

	"sluice/policy"
)

func TestParseQuestion(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for name, tc := range map[string]struct {
		q     Question
		host  string
		port  uint16
		proto policy.Protocol
		seen  policy.Seen
		ok    bool
	}{
		"a name":                 {Question{Host: "a.example"}, "a.example", 443, policy.TCP, policy.SeenNothing, true},
		"a name with its port":   {Question{Host: "a.example:587", App: "smtp"}, "a.example", 587, policy.TCP, policy.SeenSilent, true},
		"an IPv6 address":        {Question{Host: "[2001:db8::1]:3478", Proto: "UDP", App: "turn"}, "2001:db8::1", 3478, policy.UDP, policy.SeenSTUN, true},
		"a port beside the host": {Question{Host: "a.example", Port: "80", App: "http"}, "a.example", 80, policy.TCP, policy.SeenHTTP, true},
		"nothing":                {Question{}, "", 443, policy.TCP, 0, false},
		"port 0":                 {Question{Host: "a.example:0"}, "a.example", 443, policy.TCP, 0, false},
		"a port too large":       {Question{Host: "a.example", Port: "65536"}, "a.example", 443, policy.TCP, 0, false},
		"a client by name":       {Question{Host: "a.example", From: "laptop"}, "a.example", 443, policy.TCP, 0, false},
		"another protocol":       {Question{Host: "a.example", Proto: "sctp"}, "a.example", 443, policy.TCP, 0, false},
		"an unknown app":         {Question{Host: "a.example", App: "telnet"}, "a.example", 443, policy.TCP, 0, false},
	} {
		q, err := ParseQuestion(tc.q, now)
		if (err == nil) != tc.ok {
			t.Errorf("%s: error %v", name, err)
			continue
		}
		if tc.ok && (q.Host != tc.host || q.Port != tc.port || q.Proto != tc.proto || q.Seen != tc.seen || !q.Time.Equal(now)) {
			t.Errorf("%s: got %+v", name, q)
		}
	}
}

// FuzzParseQuestion: a question that is taken has a port and a protocol.
func FuzzParseQuestion(f *testing.F) {
	f.Add("a.example:443", "", "10.0.0.1", "tcp", "tls")
	f.Add("[::1]:80", "443", "::ffff:10.0.0.1", "UDP", "http")
	f.Fuzz(func(t *testing.T, host, port, from, proto, app string) {
		q, err := ParseQuestion(Question{Host: host, Port: port, From: from, Proto: proto, App: app}, time.Unix(0, 0))
		if err == nil && (q.Port == 0 || q.Proto == policy.AnyProtocol || q.Source.Is4In6()) {
			t.Errorf("taken: %+v", q)
		}
	})
}
