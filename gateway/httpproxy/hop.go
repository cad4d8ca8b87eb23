package httpproxy

import (
	"fmt"
	"net/http"
	"strings"
)

// hopByHop are the fields that end at this gateway (RFC 9110 section 7.6.1),
// beside those that Connection names.
var hopByHop = [...]string{
	"Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Http2-Settings",
	"Proxy-Authenticate", "Proxy-Authorization", "Proxy-Authentication-Info",
}

// stripHop removes them.
func stripHop(header http.Header) {
	for _, list := range header["Connection"] {
		for name := range strings.SplitSeq(list, ",") {
			header.Del(strings.Trim(name, " \t"))
		}
	}
	for _, name := range hopByHop {
		delete(header, name)
	}
}

// addVia notes that a message passed here (RFC 9110 section 7.6.3).
func (d *Door) addVia(header http.Header, major, minor int) {
	version := fmt.Sprintf("%d.%d", major, minor)
	if major > 1 {
		version = fmt.Sprint(major)
	}
	hops := append(header["Via"][:len(header["Via"]):len(header["Via"])], version+" "+d.via)
	header["Via"] = []string{strings.Join(hops, ", ")}
}
