package listen

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrNotRedirected says that a connection came to the listener directly.
var ErrNotRedirected = errors.New("not redirected")

// OriginalDst returns where a client meant to go, of a connection that
// netfilter's REDIRECT or DNAT brought here. It fails with ErrNotRedirected if
// the client connected to the listener itself: a gateway that dialled that
// address would reach itself. (Behind TPROXY it is c.LocalAddr.)
func OriginalDst(c *net.TCPConn) (netip.AddrPort, error) {
	local := c.LocalAddr().(*net.TCPAddr).AddrPort()
	local = netip.AddrPortFrom(local.Addr().Unmap(), local.Port())
	raw, err := c.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, err
	}
	var dst netip.AddrPort
	err = control(raw, func(fd int) error {
		// By the client's family: on a dual-stack socket IPv4 has its own answer.
		if local.Addr().Is4() {
			dst, err = originalDst4(fd)
		} else {
			dst, err = originalDst6(fd)
		}
		return err
	})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOPROTOOPT) || err == nil && dst == local {
		return netip.AddrPort{}, ErrNotRedirected
	}
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("original destination: %w", err)
	}
	return dst, nil
}

func originalDst4(fd int) (netip.AddrPort, error) {
	var a unix.RawSockaddrInet4
	if err := getsockopt(fd, unix.SOL_IP, unix.SO_ORIGINAL_DST, unsafe.Pointer(&a), unix.SizeofSockaddrInet4); err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), port(&a.Port)), nil
}

func originalDst6(fd int) (netip.AddrPort, error) {
	const ip6tSOOriginalDst = 80 // IP6T_SO_ORIGINAL_DST of linux/netfilter_ipv6/ip6_tables.h
	var a unix.RawSockaddrInet6
	if err := getsockopt(fd, unix.SOL_IPV6, ip6tSOOriginalDst, unsafe.Pointer(&a), unix.SizeofSockaddrInet6); err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), port(&a.Port)), nil
}

// port reads a port in network byte order.
func port(p *uint16) uint16 {
	b := (*[2]byte)(unsafe.Pointer(p))
	return uint16(b[0])<<8 | uint16(b[1])
}

func getsockopt(fd, level, opt int, p unsafe.Pointer, size uint32) error {
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(opt),
		uintptr(p), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}
