package audit

import (
	"strconv"
	"unicode/utf8"

	"sluice/gateway/flow"
	"sluice/policy"
)

// Bounds of texts in a record, in bytes before escaping. What is cut ends in
// "…". A client chooses these texts, and must not choose the size of a record.
const (
	maxWord  = 64
	maxName  = 256 // a host name has 253
	maxText  = 512
	maxPath  = 1024
	maxItems = 64 // of a list
)

// clean returns s cut to limit bytes, and, if it holds anything that does not
// print (control and format characters, invalid UTF-8), escaped as Go escapes
// it: a record shown on a terminal must not move its cursor.
func clean(s string, limit int) string {
	cut := len(s) > limit
	if cut {
		for limit > 0 && !utf8.RuneStart(s[limit]) {
			limit--
		}
		s = s[:limit]
	}
	if !printable(s) {
		q := strconv.Quote(s)
		s = q[1 : len(q)-1]
	}
	if cut {
		s += "…"
	}
	return s
}

// plain are the bytes that stand for themselves in JSON and print.
var plain = func() (set [256]bool) {
	for c := byte(' '); c < 0x7f; c++ {
		set[c] = c != '"' && c != '\\'
	}
	return set
}()

func printable(s string) bool {
	for i := 0; i < len(s); {
		if plain[s[i]] || s[i] == '"' || s[i] == '\\' {
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 || !strconv.IsPrint(r) {
			return false
		}
		i += n
	}
	return true
}

func cleanList(list []string) []string {
	list = list[:min(len(list), maxItems):min(len(list), maxItems)]
	for _, s := range list {
		if len(s) > maxName || !printable(s) {
			out := make([]string, len(list))
			for i, s := range list {
				out[i] = clean(s, maxName)
			}
			return out
		}
	}
	return list
}

func cleanClaims(claims []flow.Claim) []flow.Claim {
	claims = claims[:min(len(claims), maxItems):min(len(claims), maxItems)]
	for _, c := range claims {
		if len(c.Host) > maxName || !printable(c.Host) {
			out := make([]flow.Claim, len(claims))
			for i, c := range claims {
				out[i] = flow.Claim{Host: clean(c.Host, maxName), From: c.From}
			}
			return out
		}
	}
	return claims
}

func protocolWord(p policy.Protocol) string {
	switch p {
	case policy.TCP:
		return "tcp"
	case policy.UDP:
		return "udp"
	}
	return ""
}

func appWord(s policy.Seen) string {
	switch s {
	case policy.SeenTLS:
		return "tls"
	case policy.SeenTLSNoName:
		return "tls_no_name"
	case policy.SeenHTTP:
		return "http"
	case policy.SeenSTUN:
		return "stun"
	case policy.SeenOpaque:
		return "opaque"
	case policy.SeenSilent:
		return "silent"
	}
	return ""
}

func modeWord(m policy.Mode) string {
	switch m {
	case policy.Enforce:
		return "enforce"
	case policy.Report:
		return "report"
	case policy.Open:
		return "open"
	}
	return ""
}

func position(p policy.Position) string {
	if p.Line == 0 {
		return p.File
	}
	return p.File + ":" + strconv.Itoa(p.Line)
}
