package integration

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sluice/integration/testbed"
)

// block is one fenced block of a document.
type block struct {
	where string // file:line
	lang  string
	mark  string // what the info string says after the language
	text  string
}

// blocks reads the fenced blocks of a Markdown file.
func blocks(t *testing.T, file string) (list []block) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", file))
	if err != nil {
		t.Fatal(err)
	}
	var open *block
	n := 0
	for line := range strings.Lines(string(data)) {
		n++
		fence, isFence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case !isFence && open != nil:
			open.text += line
		case isFence && open != nil:
			list = append(list, *open)
			open = nil
		case isFence:
			lang, mark, _ := strings.Cut(fence, " ")
			open = &block{where: fmt.Sprintf("%s:%d", file, n), lang: lang, mark: mark}
		}
	}
	if open != nil {
		t.Errorf("%s: the block is not closed", open.where)
	}
	return list
}

// documents are the Markdown files of the repository.
func documents(t *testing.T) (files []string) {
	t.Helper()
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != ".." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "out" || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if strings.HasSuffix(path, ".md") {
			rel, _ := filepath.Rel("..", path)
			files = append(files, rel)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// Every sh block says how it is tested: test=shell (in a directory with the
// document's files), test=gateway (the same, with a gateway on config.yaml), or
// test=none and the reason. The ones with file=NAME are those files.
func TestDocuments(t *testing.T) {
	ran := 0
	for _, file := range documents(t) {
		list := blocks(t, file)
		for _, b := range list {
			how, reason, _ := strings.Cut(b.mark, " ")
			switch {
			case b.lang != "sh" && b.lang != "bash" && b.lang != "console":
			case b.lang != "sh":
				t.Errorf("%s: write sh, not %s", b.where, b.lang)
			case how == "test=none" && reason != "":
				t.Logf("%s is not run: %s", b.where, reason)
			case how == "test=shell" || how == "test=gateway":
				ran++
			default:
				t.Errorf("%s: the block does not say how it is tested: test=shell, test=gateway, or test=none and a reason", b.where)
			}
		}
		t.Run(file, func(t *testing.T) { runDocument(t, list) })
	}
	if ran < 6 {
		t.Errorf("only %d blocks are run", ran)
	}
}

// page is a document whose blocks are being run.
type page struct {
	t    *testing.T
	dir  string
	bin  string // a directory with the program
	env  []string
	up   *testbed.Upstream
	g    *testbed.Gateway
	subs []string // what a reader's machine has, and what stands for it here
}

func runDocument(t *testing.T, list []block) {
	p := &page{t: t, dir: t.TempDir(), bin: t.TempDir()}
	if err := os.Symlink(testbed.Binary(t), filepath.Join(p.bin, "sluice")); err != nil {
		t.Fatal(err)
	}
	for _, b := range list {
		if name, ok := strings.CutPrefix(b.mark, "file="); ok {
			if err := os.WriteFile(filepath.Join(p.dir, name), []byte(b.text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, b := range list {
		switch b.mark {
		case "test=shell":
			p.run(b)
		case "test=gateway":
			if p.g == nil {
				p.start()
			}
			p.run(b)
		}
	}
}

// start runs the gateway on the document's config.yaml, with free ports for
// its own, and names that lead to the upstream.
func (p *page) start() {
	testbed.Need(p.t, "curl")
	p.up = testbed.NewUpstream(p.t)
	data, err := os.ReadFile(filepath.Join(p.dir, "config.yaml"))
	if err != nil {
		p.t.Fatal(err)
	}
	ports := map[string]string{"127.0.0.1:3128": "proxy", "127.0.0.1:8443": "sni"}
	text := string(data)
	for address := range ports {
		if strings.Count(text, address) != 1 {
			p.t.Fatalf("config.yaml does not listen on %s", address)
		}
		text = strings.Replace(text, address, "127.0.0.1:0", 1)
	}
	hosts := filepath.Join(p.dir, "hosts")
	lines := ""
	for _, n := range append([]string{"example.com"}, testbed.Names...) {
		lines += testbed.IP + " " + n + "\n"
	}
	if err := os.WriteFile(hosts, []byte(lines), 0o600); err != nil {
		p.t.Fatal(err)
	}
	p.g = testbed.Start(p.t, text, "SLUICE_ADMIN_ADDRESS=127.0.0.1:0", "SLUICE_RESOLVER_SERVERS=udp://127.0.0.1:9",
		"SLUICE_RESOLVER_HOSTS_FILE="+hosts, "SLUICE_GUARD_PERMIT=127.77.0.0/16")
	for address, name := range ports {
		p.subs = append(p.subs, address, p.g.Address(name))
	}
	p.subs = append(p.subs, "127.0.0.1:9127", p.g.Admin, "~/.local/state/sluice", p.g.Dir)
	p.env = append(p.env, "CURL_CA_BUNDLE="+p.up.CA.File)
}

// run runs a block line by line. A line with the comment "denied" must fail,
// every other one must not.
func (p *page) run(b block) {
	for line := range strings.Lines(strings.ReplaceAll(b.text, "\\\n", " ")) {
		command, comment, _ := strings.Cut(strings.TrimSpace(line), "  #")
		command, comment = strings.TrimSpace(command), strings.TrimSpace(comment)
		if i := strings.Index(command, " # "); i >= 0 {
			command, comment = command[:i], command[i+3:]
		}
		if command == "" || strings.HasPrefix(command, "#") {
			continue
		}
		command = strings.NewReplacer(p.subs...).Replace(command)
		if strings.HasPrefix(comment, "denied") {
			p.denied(b, command)
			continue
		}
		if strings.Contains(command, ".jsonl") { // the journal is written in groups
			testbed.Eventually(p.t, command, func() bool { _, err := p.shell(command); return err == nil })
			continue
		}
		out, err := p.shell(command)
		if err != nil {
			p.t.Errorf("%s: %s\n%v\n%s", b.where, command, err, out)
		}
		if strings.Contains(command, "https://") && !strings.Contains(out, "hello from") {
			p.t.Errorf("%s: %s\ndid not reach the upstream:\n%s", b.where, command, out)
		}
	}
}

// denied runs a command that must fail, and if a gateway has a part in it, for
// no other reason than its denial.
func (p *page) denied(b block, command string) {
	before := 0
	if p.g != nil {
		before = len(p.g.Find("decision", "deny"))
	}
	if out, err := p.shell(command); err == nil {
		p.t.Errorf("%s: %s\nis said to be denied, and was not:\n%s", b.where, command, out)
	}
	if p.g != nil {
		testbed.Eventually(p.t, "a record of the denial by "+command, func() bool { return len(p.g.Find("decision", "deny")) > before })
	}
}

func (p *page) shell(command string) (string, error) {
	cmd := exec.Command("sh", "-c", command)
	cmd.Dir = p.dir
	cmd.Env = append([]string{"PATH=" + p.bin + ":" + os.Getenv("PATH"), "HOME=" + p.dir, "LANG=C"}, p.env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

var link = regexp.MustCompile(`\]\(([^)#:]+)\)`)

// Links between the documents lead somewhere.
func TestLinksOfDocuments(t *testing.T) {
	for _, file := range documents(t) {
		data, err := os.ReadFile(filepath.Join("..", file))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(data), -1) {
			if _, err := os.Stat(filepath.Join("..", filepath.Dir(file), m[1])); err != nil {
				t.Errorf("%s: link to %s: %v", file, m[1], err)
			}
		}
	}
}

// The README names every reason, and every endpoint of the code.
func TestReadmeIsComplete(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what, file, form string
		least            int
	}{
		{"reason", "../policy/types.go", `(?m)^\tReason\w+\s+Reason\s*= "(\w+)"`, 15},
		{"endpoint", "../gateway/admin/server.go", `"(?:GET|POST) (/\w[\w./]*)"`, 8},
	} {
		code, err := os.ReadFile(c.file)
		if err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile(c.form).FindAllStringSubmatch(string(code), -1)
		if len(found) < c.least {
			t.Errorf("only %d of %s found in %s", len(found), c.what, c.file)
		}
		for _, m := range found {
			word := strings.Join(m[1:], "")
			if !strings.Contains(string(readme), word) {
				t.Errorf("README.md does not name the %s %s", c.what, word)
			}
		}
	}
}
