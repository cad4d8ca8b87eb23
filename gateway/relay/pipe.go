package relay

import (
	"golang.org/x/sys/unix"
)

const (
	// pipeSize lets a stream move in few system calls; the pages in a pipe are
	// the socket's own. 1 MiB is also what a process may ask for without
	// privilege (/proc/sys/fs/pipe-max-size).
	pipeSize = 1 << 20

	// idlePipes is how many empty pipes are kept, at two descriptors each.
	idlePipes = 32
)

// pipe carries bytes between two sockets without a copy. It is empty whenever
// it is in the pool.
type pipe struct {
	r, w int
	held int // bytes inside
	size int
}

// fill moves bytes from the socket fd. It fails with EAGAIN if there are none.
func (p *pipe) fill(fd int) (int, error) {
	n, err := unix.Splice(fd, nil, p.w, nil, p.size, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
	if n <= 0 {
		return 0, err
	}
	p.held = int(n)
	return int(n), err
}

// drain moves at most n bytes to the socket fd. It fails with EAGAIN if it
// takes none.
func (p *pipe) drain(fd, n int) (int, error) {
	m, err := unix.Splice(p.r, nil, fd, nil, n, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
	if m <= 0 {
		return 0, err
	}
	p.held -= int(m)
	return int(m), err
}

func (p *pipe) close() {
	unix.Close(p.r)
	unix.Close(p.w)
}

// pipePool keeps some empty pipes: making one costs more than moving a buffer.
type pipePool struct{ free chan *pipe }

func newPipePool() *pipePool { return &pipePool{free: make(chan *pipe, idlePipes)} }

// get returns an empty pipe, or nil if there is none to be had: at the limit
// of descriptors a flow goes on by copying.
func (pp *pipePool) get() *pipe {
	select {
	case p := <-pp.free:
		return p
	default:
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil
	}
	p := &pipe{r: fds[0], w: fds[1], size: 64 << 10}
	// Refused over the user's soft limit of pipe pages: it works as it is then.
	if n, err := unix.FcntlInt(uintptr(p.w), unix.F_SETPIPE_SZ, pipeSize); err == nil {
		p.size = n
	}
	return p
}

func (pp *pipePool) put(p *pipe) {
	if p.held > 0 { // of a flow that ended on the way
		p.close()
		return
	}
	select {
	case pp.free <- p:
	default:
		p.close()
	}
}

// drainIdle closes the pipes that are kept.
func (pp *pipePool) drainIdle() {
	for {
		select {
		case p := <-pp.free:
			p.close()
		default:
			return
		}
	}
}
