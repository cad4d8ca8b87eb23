package listen

import (
	"fmt"
	"net"
	"os"
	"sync"

	"github.com/coreos/go-systemd/v22/activation"
)

// inherited holds the sockets passed to this process, as sd_listen_fds(3) has
// it. There is one set in a process, so there is one variable.
var inherited inheritance

type inheritance struct {
	once  sync.Once
	mu    sync.Mutex
	files []*os.File
}

// take returns the next socket of that name, or nil. It is not given out again.
func (in *inheritance) take(name string) *os.File {
	in.once.Do(func() { in.files = activation.Files(true) })
	in.mu.Lock()
	defer in.mu.Unlock()
	for i, f := range in.files {
		if f != nil && f.Name() == name {
			in.files[i] = nil
			return f
		}
	}
	return nil
}

// adopt makes a listener of an inherited socket.
func adopt(f *os.File, o *Options) (net.Listener, error) {
	defer f.Close() // FileListener works on a copy
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("socket passed by systemd (LISTEN_FDNAMES): %w", err)
	}
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return l, nil // the unit file says who may use a Unix socket
	}
	raw, err := tcp.SyscallConn()
	if err == nil {
		err = control(raw, func(fd int) error { return configure(fd, o) })
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("socket passed by systemd: %w", err)
	}
	return l, nil
}
