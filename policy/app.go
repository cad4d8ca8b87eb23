package policy

import (
	"slices"
	"strings"
)

// seenSet is a set of Seen values, one bit each.
type seenSet uint8

func (s seenSet) has(v Seen) bool { return s&(1<<v) != 0 }

func sees(values ...Seen) seenSet {
	s := seenSet(1 << SeenNothing)
	for _, v := range values {
		s |= 1 << v
	}
	return s
}

var (
	anySeen     = sees(SeenTLS, SeenTLSNoName, SeenHTTP, SeenSTUN, SeenOpaque, SeenSilent)
	tlsSeen     = sees(SeenTLS)
	bareTLSSeen = sees(SeenTLS, SeenTLSNoName)
	httpSeen    = sees(SeenHTTP)
	stunSeen    = sees(SeenSTUN)
	opaqueSeen  = sees(SeenOpaque)
	serverSeen  = sees(SeenOpaque, SeenSilent) // protocols in which the server may speak first
)

// app is one word of a rule's app list.
type app struct {
	seen seenSet // what its first bytes may look like
	addr seenSet // the same when the destination is an address
	udp  bool    // it exists over UDP only
	port string  // where it usually lives
}

// apps is the closed vocabulary of rules' app lists.
var apps = map[string]app{
	"https": {seen: tlsSeen, port: "443"},
	"wss":   {seen: tlsSeen, port: "443"},
	"grpc":  {seen: tlsSeen, port: "443"},
	"quic":  {seen: tlsSeen, addr: bareTLSSeen, udp: true, port: "443"},
	"smtps": {seen: tlsSeen, port: "465"},
	"imaps": {seen: tlsSeen, port: "993"},
	"pop3s": {seen: tlsSeen, port: "995"},
	"ldaps": {seen: tlsSeen, port: "636"},
	"mqtts": {seen: tlsSeen, port: "8883"},
	"amqps": {seen: tlsSeen, port: "5671"},
	"sips":  {seen: tlsSeen, addr: bareTLSSeen, port: "5061"},
	"turns": {seen: tlsSeen, addr: bareTLSSeen, port: "5349"},
	"stuns": {seen: tlsSeen, addr: bareTLSSeen, port: "5349"},
	"tls":   {seen: bareTLSSeen, port: "443"},

	"http":      {seen: httpSeen, port: "80"},
	"ws":        {seen: httpSeen, port: "80"},
	"http-ocsp": {seen: httpSeen, port: "80"},

	"stun": {seen: stunSeen, port: "3478"},
	"turn": {seen: stunSeen, port: "3478"},

	"smtp":          {seen: serverSeen, port: "587"},
	"smtp-starttls": {seen: serverSeen, port: "587"},
	"imap":          {seen: serverSeen, port: "143"},
	"pop3":          {seen: serverSeen, port: "110"},
	"ftp":           {seen: serverSeen, port: "21"},
	"ssh":           {seen: serverSeen, port: "22"},
	"mysql":         {seen: serverSeen, port: "3306"},
	"vnc":           {seen: serverSeen, port: "5900"},

	"amqp":      {seen: opaqueSeen, port: "5672"},
	"dns":       {seen: opaqueSeen, port: "53"},
	"enet":      {seen: opaqueSeen, udp: true, port: "5055-5058"},
	"kerberos":  {seen: opaqueSeen, port: "88"},
	"ldap":      {seen: opaqueSeen, port: "389"},
	"mqtt":      {seen: opaqueSeen, port: "1883"},
	"msrpc":     {seen: opaqueSeen, port: "135"},
	"mssql-tds": {seen: opaqueSeen, port: "1433"},
	"ntp":       {seen: opaqueSeen, udp: true, port: "123"},
	"postgres":  {seen: opaqueSeen, port: "5432"},
	"rdp":       {seen: opaqueSeen, port: "3389"},
	"redis":     {seen: opaqueSeen, port: "6379"},
	"rtp":       {seen: opaqueSeen | stunSeen, udp: true}, // ICE checks share the port (RFC 7983)
	"srtp":      {seen: opaqueSeen | stunSeen, udp: true},
	"sip":       {seen: opaqueSeen, port: "5060"},
	"smb":       {seen: opaqueSeen, port: "445"},

	"opaque": {seen: anySeen},
}

// Apps returns the words that a rule's app list may hold, sorted.
func Apps() []string {
	words := make([]string, 0, len(apps))
	for w := range apps {
		words = append(words, w)
	}
	slices.Sort(words)
	return words
}

// splitApps reads an app list; "https|wss" is two words.
func splitApps(list []string) []string {
	var words []string
	for _, s := range list {
		for w := range strings.SplitSeq(s, "|") {
			w = strings.ToLower(strings.TrimSpace(w))
			if !slices.Contains(words, w) {
				words = append(words, w)
			}
		}
	}
	return words
}

// Accepts reports whether a flow of this rule may look like s. port matters to
// an allow rule without an app: on 443 it carries TLS with a server name only.
// address says that the destination was given as an address.
func (r *Rule) Accepts(s Seen, port uint16, address bool) bool {
	if len(r.Apps) == 0 {
		if r.Deny || r.everything || port != 443 || s == SeenNothing {
			return true
		}
		return s == SeenTLS || s == SeenTLSNoName && address
	}
	if r.Deny && s == SeenNothing && !r.Opaque {
		return false // judged again when there is something to see
	}
	if address {
		return r.seenAddr.has(s)
	}
	return r.seen.has(s)
}
