package deploy

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// maxExposure bounds what `systemd-analyze security` says of the unit, in
// tenths; systemd 252 says 16, of 100. Most of what is left is what a
// gateway is for: the network.
const maxExposure = "18"

// tool returns the path of a program of the machine. Without it the test is
// skipped, except in CI, which must have it.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is missing, and CI must have it: %v", name, err)
	}
	t.Skipf("%s is missing: %v", name, err)
	return ""
}

// install puts the unit into a directory, with its drop-ins and with a command
// that exists there in place of the installed one.
func install(t *testing.T, dropIns ...string) string {
	t.Helper()
	dir := t.TempDir()
	command := filepath.Join(dir, "sluice")
	if err := os.WriteFile(command, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(read(t, "systemd/sluice.service"), "/usr/bin/sluice", command)
	unit := filepath.Join(dir, "sluice.service")
	if err := os.WriteFile(unit, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(unit+".d", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range dropIns {
		if err := os.WriteFile(filepath.Join(unit+".d", filepath.Base(d)), []byte(read(t, d)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return unit
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// verify returns all that systemd has to say against a unit. It reports unknown
// keys with exit status 0, so only silence counts as good.
func verify(t *testing.T, unit string) string {
	t.Helper()
	out, err := exec.Command(tool(t, "systemd-analyze"), "verify", "--man=no", unit).CombinedOutput()
	if err != nil && len(out) == 0 {
		return err.Error()
	}
	// Other units of the machine are read on the way, and are not ours to mend.
	var about []string
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "sluice") {
			about = append(about, line)
		}
	}
	return strings.Join(about, "")
}

func TestUnitIsValid(t *testing.T) {
	for name, dropIns := range map[string][]string{"alone": nil, "with TPROXY": {"systemd/tproxy.conf"}} {
		t.Run(name, func(t *testing.T) {
			if out := verify(t, install(t, dropIns...)); out != "" {
				t.Error(out)
			}
		})
	}
}

// The test above would prove nothing if systemd let mistakes pass in silence.
func TestVerifyFindsMistakes(t *testing.T) {
	for name, edit := range map[string][2]string{
		"misspelt key":    {"ProtectSystem=", "ProtectSytem="},
		"missing command": {"ExecStart=", "ExecStart=/nowhere"},
		"no such value":   {"Restart=on-failure", "Restart=sometimes"},
	} {
		t.Run(name, func(t *testing.T) {
			unit := install(t)
			text := strings.Replace(read(t, unit), edit[0], edit[1], 1)
			if err := os.WriteFile(unit, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			if out := verify(t, unit); out == "" {
				t.Errorf("nothing said against %s", edit[1])
			}
		})
	}
}

func TestUnitIsConfined(t *testing.T) {
	analyze := tool(t, "systemd-analyze")
	unit := install(t)
	out, err := exec.Command(analyze, "security", "--no-pager", "--offline=true", "--threshold="+maxExposure, unit).CombinedOutput()
	if err != nil {
		t.Errorf("exposure over %s tenths: %v\n%s", maxExposure, err, out)
	}

	var stdout bytes.Buffer
	cmd := exec.Command(analyze, "security", "--no-pager", "--offline=true", "--json=short", unit)
	cmd.Stdout = &stdout
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	var rows []struct {
		Set  *bool  `json:"set"`
		Name string `json:"name"`
		Why  string `json:"description"`
	}
	if err := json.Unmarshal(stdout.Bytes(), &rows); err != nil {
		t.Fatal(err)
	}
	if len(rows) == 0 {
		t.Fatal("systemd-analyze lists nothing")
	}
	for _, r := range rows {
		if r.Set != nil && !*r.Set && !slices.Contains(accepted, r.Name) {
			t.Errorf("%s: %s; close it, or say here why it stays", r.Name, r.Why)
		}
	}
}

// accepted are the openings that stay, by the name systemd-analyze gives them.
var accepted = []string{
	"RestrictAddressFamilies=~AF_(INET|INET6)",                    // the work itself
	"RestrictAddressFamilies=~AF_UNIX",                            // sd_notify, journald
	"RestrictAddressFamilies=~AF_NETLINK",                         // own addresses, for the guard
	"PrivateNetwork=",                                             // the work itself
	"IPAddressDeny=",                                              // the guard and the policy decide by name
	"CapabilityBoundingSet=~CAP_NET_(BIND_SERVICE|BROADCAST|RAW)", // ports below 1024
	"AmbientCapabilities=",                                        // the same, without root
	"PrivateUsers=",                                               // would take that capability away
	"ProcSubset=",                                                 // net.core.somaxconn
	"NotifyAccess=",                                               // hand-over to a new process
	"DeviceAllow=",                                                // ProtectClock adds the clock, for reading
	"UMask=",                                                      // the group reads the journal
	"RootDirectory=/RootImage=",                                   // the resolver's and the CAs' files are the machine's
}

// What the gateway calls on its data path and when it writes its journal must
// pass the filter; a call that fails there would show only under load.
func TestSystemCallsOfTheDataPathPass(t *testing.T) {
	allowed := make(map[string]bool)
	for line := range strings.Lines(read(t, "systemd/sluice.service")) {
		value, ok := strings.CutPrefix(strings.TrimSpace(line), "SystemCallFilter=")
		if !ok {
			continue
		}
		value, deny := strings.CutPrefix(value, "~")
		for _, word := range strings.Fields(value) {
			for _, call := range calls(t, word) {
				allowed[call] = !deny
			}
		}
	}
	for _, call := range strings.Fields(`
		accept4 bind connect getpeername getsockname getsockopt listen setsockopt shutdown socket
		epoll_create1 epoll_ctl epoll_pwait eventfd2 pipe2 splice sendfile recvmmsg sendmmsg recvmsg sendmsg
		openat fstat newfstatat fsync fdatasync ftruncate rename renameat unlinkat mkdirat flock getdents64
		inotify_init1 inotify_add_watch read write pread64 pwrite64 writev fcntl
		futex mmap munmap madvise mprotect clone clone3 rt_sigaction rt_sigprocmask sigaltstack tgkill
		getrandom sched_getaffinity prlimit64 nanosleep clock_gettime execve pidfd_open pidfd_send_signal waitid`) {
		if !allowed[call] {
			t.Errorf("SystemCallFilter denies %s", call)
		}
	}
	for _, call := range []string{"ptrace", "mount", "setuid", "chroot", "bpf", "init_module", "kexec_load", "settimeofday"} {
		if allowed[call] {
			t.Errorf("SystemCallFilter allows %s", call)
		}
	}
}

// calls resolves a word of a SystemCallFilter: a system call, or @group.
func calls(t *testing.T, word string) []string {
	t.Helper()
	if !strings.HasPrefix(word, "@") {
		return []string{word}
	}
	out, err := exec.Command(tool(t, "systemd-analyze"), "--no-pager", "syscall-filter", word).Output()
	if err != nil {
		t.Fatalf("resolve %s: %v", word, err)
	}
	var all []string
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSpace(line)
		if line == "" || line == word || strings.HasPrefix(line, "#") {
			continue
		}
		all = append(all, calls(t, line)...)
	}
	return all
}

func TestAccountCanBeMade(t *testing.T) {
	sysusers := tool(t, "systemd-sysusers")
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root to write an account file, and CI must have it")
		}
		t.Skip("needs root to write an account file")
	}
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	file, err := filepath.Abs("systemd/sluice.sysusers")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(sysusers, "--root="+root, file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	passwd := read(t, filepath.Join(root, "etc/passwd"))
	if !strings.HasPrefix(passwd, "sluice:") || !strings.Contains(passwd, "nologin") {
		t.Errorf("account %q; want sluice, without a login shell", passwd)
	}
}
