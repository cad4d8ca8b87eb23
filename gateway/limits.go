package gateway

import "golang.org/x/sys/unix"

const (
	// spareDescriptors are kept from clients: for the admin API, DNS, the
	// journal, exports, and idle connections to servers.
	spareDescriptors = 64
	// eachConnection is what a client costs: its own descriptor and that of
	// the server. A relay that finds none left for pipes copies instead.
	eachConnection = 2
	// leastConnections is let in however few descriptors there are.
	leastConnections = 16
)

// connectionLimit is how many connections a listener takes at one time if
// nothing is configured: as many as descriptors allow. Over it clients are
// turned away at once; without it they would hang once no descriptor is left.
func connectionLimit(configured int) int {
	if configured > 0 {
		return configured
	}
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return 0
	}
	return max(leastConnections, int(min(lim.Cur, 1<<30)-min(lim.Cur, spareDescriptors))/eachConnection)
}
