package demo

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"golang.org/x/net/dns/dnsmessage"
)

// metadataAddress is where clouds serve credentials to their machines.
const metadataAddress = "169.254.169.254"

// nameServer answers DNS questions over UDP, and remembers the names.
type nameServer struct {
	conn    net.PacketConn
	answers map[string]netip.Addr
	done    chan struct{}
	mu      sync.Mutex
	names   map[string]bool
}

func newNameServer(answers map[string]netip.Addr) (*nameServer, error) {
	conn, err := net.ListenPacket("udp", loopback+":0")
	if err != nil {
		return nil, err
	}
	s := &nameServer{conn: conn, answers: answers, done: make(chan struct{}), names: map[string]bool{}}
	go s.serve()
	return s, nil
}

func (s *nameServer) close() {
	s.conn.Close()
	<-s.done
}

// asked returns the names that were asked for, sorted.
func (s *nameServer) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]string, 0, len(s.names))
	for name := range s.names {
		list = append(list, name)
	}
	slices.Sort(list)
	return list
}

func (s *nameServer) serve() {
	defer close(s.done)
	buf := make([]byte, 4096)
	for {
		n, from, err := s.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		if reply, err := s.reply(buf[:n]); err == nil {
			s.conn.WriteTo(reply, from) //nolint:errcheck // then the gateway asks again
		}
	}
}

// reply answers A questions for the names that are known. Other questions for
// them get an empty answer, and other names do not exist.
func (s *nameServer) reply(msg []byte) ([]byte, error) {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil {
		return nil, err
	}
	q, err := p.Question()
	if err != nil {
		return nil, err
	}
	name := strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
	s.mu.Lock()
	s.names[name] = true
	s.mu.Unlock()
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: h.ID, Response: true, RecursionDesired: h.RecursionDesired, RecursionAvailable: true},
		Questions: []dnsmessage.Question{q},
	}
	addr, known := s.answers[name]
	switch {
	case !known:
		m.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeA:
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 60},
			Body:   &dnsmessage.AResource{A: addr.As4()},
		}}
	}
	return m.Pack()
}
