//go:build amd64

package checkpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Programs that know nothing of this are in the midst of their work, say ready,
// and end with status 0 when their work, after the restore, comes out right. They
// go on when there is a file named go. The Go program is goRuntime, which goes on when
// it gets a signal.
var programs = []struct {
	name string // in the table
	need string // the programs without which there is no trying it
	argv []string
}{
	{"bash, a pipeline", "bash", []string{"bash", "-c", `
		(echo ready >&2; n=0; until [ -e go ]; do n=$((n+1)); echo $n; sleep 0.01; done; echo end) |
		(sum=0; while read -r x && [ "$x" != end ]; do last=$x; sum=$((sum+x)); done; [ $sum = $((last*(last+1)/2)) ] && [ "$x" = end ])`}},
	{"python3, with threads and a child", "python3", []string{"python3", "-c", `
import os, threading, time, queue, subprocess
q, done, total = queue.Queue(), threading.Event(), [0] * 4
child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
def work(n):
    while True:
        x = q.get()
        if x is None: return
        total[n] += x
threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
for t in threads: t.start()
sent = 0
print("ready", flush=True)
while not os.path.exists("go"):
    for x in range(100): q.put(x); sent += x
    time.sleep(0.001)
for t in threads: q.put(None)
for t in threads: t.join()
assert sum(total) == sent, (total, sent)
assert child.communicate(b"hello")[0] == b"hello" and child.returncode == 0
`}},
	{"python3, with numpy and threads", "python3-numpy", []string{"python3", "-c", `
import numpy, os, threading, time
n, rounds, wrong = 300, [0] * 4, []
def work(k):
    a = numpy.random.default_rng(k).random((n, n))
    want = a @ a
    while not os.path.exists("go"):
        if not numpy.allclose(a @ a, want): wrong.append(k)
        rounds[k] += 1
threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
for t in threads: t.start()
while min(rounds) < 2: time.sleep(0.01)
print("ready", flush=True)
before = list(rounds)
for t in threads: t.join()
assert not wrong and all(x > y for x, y in zip(rounds, before)), (wrong, before, rounds)
`}},
	{"Go, with goroutines in all kinds of waits", "go", []string{"/proc/self/exe"}},
	{"C++, 16 threads of its own and OpenMP", "g++", []string{"sh", "-c", `cat >a.cc <<'END'
#include <atomic>
#include <chrono>
#include <cstdio>
#include <thread>
#include <unistd.h>
#include <vector>
int main() {
	std::atomic<long> turns[16] = {};
	std::atomic<bool> stop{false};
	std::vector<std::thread> all;
	for (int i = 0; i < 16; i++) all.emplace_back([&, i] { while (!stop) { turns[i]++; std::this_thread::sleep_for(std::chrono::microseconds(100)); } });
	long sum = 0, loops = 0;
	for (bool told = false; access("go", F_OK); loops++) {
		long part = 0;
#pragma omp parallel for reduction(+ : part)
		for (long i = 0; i < 100000; i++) part += i % 7;
		if (loops && part != sum) { printf("wrong\n"); return 1; }
		sum = part;
		if (!told && loops > 5) { told = true; printf("ready\n"); fflush(stdout); }
	}
	long before[16];
	for (int i = 0; i < 16; i++) before[i] = turns[i];
	std::this_thread::sleep_for(std::chrono::milliseconds(500));
	for (int i = 0; i < 16; i++) if (turns[i] <= before[i]) { printf("thread %d stands still\n", i); return 1; }
	stop = true;
	for (auto &t : all) t.join();
	return 0;
}
END
g++ -O1 -fopenmp -pthread -o a a.cc && exec ./a`}},
	{"perl, with a child", "perl", []string{"perl", "-e", `
use strict; $| = 1;
my %h = map { $_ => "x" x ($_ % 50) } 1 .. 20000;
my $pid = open(my $kid, "-|") // die; if (!$pid) { sleep 1 until -e "go"; print "kid\n"; exit 0 }
print "ready\n";
select(undef, undef, undef, 0.01) until -e "go";
for (1 .. 20000) { die unless length($h{$_}) == $_ % 50 }
die unless <$kid> eq "kid\n"; close $kid or die;
`}},
	{"sqlite3, in a transaction", "sqlite3", []string{"sh", "-c", `cat >script <<'END'
create table t(x); insert into t with recursive n(v) as (select 1 union all select v + 1 from n where v < 10000) select v from n;
create temp table u as select x * 2 as y from t;
begin;
insert into t values (0);
.system echo ready
.system until [ -e go ]; do sleep 0.01; done
insert into t select y from u;
commit;
.once result
select case when count(*) = 20001 and sum(x) = 150015000 then 'right' else 'wrong' end from t;
.system grep -q right result || touch wrong
END
exec sqlite3 -batch -bail db <script`}},
	{"gcc, compiling", "gcc", []string{"sh", "-c", `
printf '#include <stdio.h>\n' >a.c
i=0; while [ $i -lt 120 ]; do i=$((i+1)); echo "double f$i(double x) { double y = x; for (int i = 0; i < 10; i++) y = y * $i + x / (y + i); return y; }"; done >>a.c
echo 'int main(void) { printf("%.3f", f7(1)); return 0; }' >>a.c
gcc -O2 -o a a.c & sleep 0.1; echo ready; wait $! && ./a >result`}},
	{"node, with timers and a worker", "node", []string{"node", "-e", `
const fs = require("fs"), { Worker } = require("worker_threads");
const w = new Worker('const { parentPort } = require("worker_threads"); parentPort.on("message", n => parentPort.postMessage(n * 2))', { eval: true });
let sent = 0, got = 0, ticks = 0, right = true;
w.on("message", n => { right = right && n == 2 * got; got++; if (got == 10) console.log("ready"); });
const timer = setInterval(() => {
	ticks++;
	if (!fs.existsSync("go")) w.postMessage(sent++);
	else if (got == sent) { clearInterval(timer); w.terminate(); process.exitCode = right ? 0 : 1; }
}, 5);
`}},
	{"java, with threads", "javac java", []string{"sh", "-c", `cat >A.java <<'END'
import java.nio.file.*;
import java.util.concurrent.atomic.*;
class A {
	public static void main(String[] args) throws Exception {
		AtomicLong[] turns = new AtomicLong[4];
		AtomicBoolean stop = new AtomicBoolean();
		for (int i = 0; i < 4; i++) {
			AtomicLong t = turns[i] = new AtomicLong();
			Thread thread = new Thread(() -> { String s = ""; while (!stop.get()) { s = ("x" + s).substring(0, Math.min(s.length() + 1, 50)); t.incrementAndGet(); } });
			thread.setDaemon(true);
			thread.start();
		}
		Thread.sleep(300);
		System.out.println("ready");
		while (!Files.exists(Path.of("go"))) Thread.sleep(10);
		long[] before = new long[4];
		for (int i = 0; i < 4; i++) before[i] = turns[i].get();
		Thread.sleep(1000);
		System.gc();
		for (int i = 0; i < 4; i++) if (turns[i].get() <= before[i]) System.exit(1);
		stop.set(true);
	}
}
END
javac A.java && exec java -Xmx64m A`}},
	{"vim, under tmux", "tmux vim", []string{"sh", "-c", tmux + `
printf 'one\ntwo\n' >text
tm new-session -d -x 80 -y 24 'vim -u NONE -n text'
until tm capture-pane -p | grep -q '^two'; do sleep 0.05; done
tm send-keys -l 'oadded'
until tm capture-pane -p | grep -q '^added'; do sleep 0.05; done
echo ready; until [ -e go ]; do sleep 0.02; done
tm capture-pane -p | grep -q '^added' && tm send-keys -l ' later' && tm send-keys Escape && tm send-keys -l ':wq' && tm send-keys Enter
for i in $(seq 200); do grep -q 'added later' text && exit 0; sleep 0.02; done; exit 1`}},
	{"top, under tmux", "tmux top", []string{"sh", "-c", tmux + `
tm new-session -d -x 80 -y 24 'top -d 0.2'
until tm capture-pane -p | grep -q 'PID USER'; do sleep 0.05; done
echo ready; until [ -e go ]; do sleep 0.02; done
tm clear-history; tm send-keys -l c
for i in $(seq 100); do tm capture-pane -p | grep -q 'top -d 0.2' && tm send-keys -l q && exit 0; sleep 0.05; done; exit 1`}},
	{"python3, with a busy terminal", "python3", []string{"python3", "-c", `
import os, pty
pid, m = pty.fork()
if pid == 0:
    n = 0
    while not os.path.exists("go"):
        os.write(1, b"%d\n" % n); n += 1
    os.write(1, b"end %d\n" % n); os._exit(0)
n, rest = 0, b""
while True:
    lines = (rest + os.read(m, 1000)).split(b"\r\n")
    rest = lines.pop()
    for line in lines:
        if line == b"end %d" % n: os.waitpid(pid, 0); raise SystemExit
        assert line == b"%d" % n, (line, n)
        n += 1
        if n == 5000: print("ready", flush=True)
`}},
	{"bash with jobs, under tmux", "tmux", []string{"sh", "-c", `
type() { tmux -S sock -f /dev/null send-keys "$@"; }
begun() { until [ -e "$1" ]; do sleep 0.02; done; }
tmux -S sock -f /dev/null new-session -d -x 90 -y 20 "exec bash --norc -i"
type 'x=remembered; tty >tty; stty -a >stty; sleep 1000 & touch asleep; cat' Enter
begun asleep; sleep 0.1; echo ready; begun go
type 'a line' Enter
until tmux -S sock capture-pane -p | tail -n +2 | grep -q '^a line'; do sleep 0.02; done
type C-c; sleep 0.5 # it throws away what was typed already
type 'tty | cmp - tty && stty -a | cmp - stty && jobs %1 && [ $x = remembered ] && touch /dev/tty right; kill %1; exit' Enter
while tmux -S sock has-session; do sleep 0.02; done; [ -e right ]`}},
	{"python3, with asyncio", "python3", []string{"python3", "-c", `
import asyncio, os
async def serve(r, w):
    while line := await r.readline(): w.write(line.upper()); await w.drain()
    w.close()
async def echo(r, w, text):
    w.write(text); await w.drain()
    return await r.readline()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    local = await asyncio.start_unix_server(serve, "sock")
    child = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    ends = [await asyncio.open_connection(*server.sockets[0].getsockname()), await asyncio.open_unix_connection("sock")]
    n = 0
    while not os.path.exists("go"):
        for r, w in ends: assert await echo(r, w, b"line %d\n" % n) == b"LINE %d\n" % n
        assert await echo(child.stdout, child.stdin, b"%d\n" % n) == b"%d\n" % n
        n += 1
        if n == 50: print("ready", flush=True)
        await asyncio.sleep(0.001)
    child.stdin.close()
    assert await child.wait() == 0
    other = await asyncio.create_subprocess_exec("true")
    assert await other.wait() == 0
asyncio.run(main())
`}},
	{"node, with TCP connections and a child", "node", []string{"node", "-e", `
const net = require("net"), fs = require("fs"), { spawn } = require("child_process");
const server = net.createServer(c => c.on("data", d => c.write(String(d).toUpperCase()))).listen(0, "127.0.0.1", () => {
	const client = net.connect(server.address().port, "127.0.0.1"), child = spawn("cat");
	let n = 0, m = 0;
	client.on("data", d => { if (String(d) != "LINE " + n) process.exit(3); n++; next(); });
	child.stdout.on("data", () => m++);
	const next = () => {
		if (n == 50) console.log("ready");
		if (fs.existsSync("go")) {
			const fresh = net.connect(server.address().port, "127.0.0.1", () => fresh.write("new"));
			fresh.on("data", d => child.stdin.end());
			child.on("exit", code => process.exit(m > 0 ? code : 4));
			return;
		}
		child.stdin.write("x");
		setTimeout(() => client.write("line " + n), 2);
	};
	next();
});`}},
	{"script, with a shell", "script", []string{"sh", "-c", `
(until [ -e go ]; do sleep 0.02; done; echo 'tty | cmp - tty && [ $x = remembered ] && touch right'; echo exit) |
(sleep 0.3; echo 'x=remembered; tty >tty; touch begun'; cat) | script -qec "bash --norc -i" typescript >/dev/null &
until [ -e begun ]; do sleep 0.02; done; echo ready; wait $!; [ -e right ]`}},
	{"redis-server with no client", "redis-server redis-cli", []string{"sh", "-c", `
redis-server --port 0 --unixsocket $PWD/s --save '' >log &
until redis-cli -s s ping >/dev/null 2>&1; do sleep 0.02; done
for i in $(seq 50); do redis-cli -s s set k$i v$i >/dev/null; done
echo ready; until [ -e go ]; do sleep 0.02; done
[ "$(redis-cli -s s get k17)" = v17 ] && redis-cli -s s shutdown nosave; wait $!`}},
	{"postgres with no client", "postgres", []string{"sh", "-c", `
chmod 755 . .. ; mkdir db; chown nobody db
as() { setpriv --reuid=65534 --regid=65534 --clear-groups "$@"; }
as initdb -D db -A trust >/dev/null && as postgres -D db -h '' -k $PWD/db >log 2>&1 &
until psql -h $PWD/db -U nobody -c 'create table t as select generate_series(1, 1000) as x' postgres >/dev/null 2>&1; do sleep 0.1; done
echo ready; until [ -e go ]; do sleep 0.02; done
[ "$(psql -h $PWD/db -U nobody -Atc 'select sum(x) from t' postgres)" = 500500 ] && kill -INT $(head -1 db/postmaster.pid); wait $!`}},
}

// tmux is a server of its own for a test, which ends with its group.
const tmux = `export TERM=screen; tm() { tmux -f /dev/null -S ./s "$@"; }; trap 'tm kill-server 2>/dev/null' EXIT`

// goes tries a program: whether it goes on, and if not, why. An empty text says that
// it is not there.
func goes(t *testing.T, need string, argv []string) string {
	t.Helper()
	path, err := exec.LookPath(argv[0])
	if argv[0] == "python3" { // not what a version manager puts before it
		path, err = filepath.EvalSymlinks("/usr/bin/python3")
	}
	if err == nil && need == "python3-numpy" {
		err = exec.Command(path, "-c", "import numpy").Run()
	} else if err == nil && argv[0] == "sh" {
		for word := range strings.FieldsSeq(need) {
			if _, e := exec.LookPath(word); e != nil {
				err = e
			}
		}
	}
	if err != nil {
		return ""
	}
	cmd := exec.Command(path, argv[1:]...)
	if need == "go" {
		cmd = goSubject(t, "runtime")
	}
	s := start(t, cmd)
	var image bytes.Buffer
	_, err = Save(context.Background(), s.group, &image, SaveOptions{Leave: Killed})
	var refused *RefusedError
	if errors.As(err, &refused) {
		_ = s.group.Kill(context.Background())
		return "refused: " + reasons(refused)
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = s.cmd.Wait()
	reap(t, image.Bytes())
	job, err := Restore(context.Background(), bytes.NewReader(image.Bytes()), s.f, RestoreOptions{})
	if err != nil {
		return "it is not restored: " + err.Error()
	}
	t.Cleanup(func() {
		_ = s.group.Kill(context.Background())
		_, _, _ = job.Wait()
	})
	err = os.WriteFile(filepath.Join(s.dir, "go"), nil, 0o600)
	if need == "go" {
		err = job.Signal(unix.SIGUSR1)
	}
	if err != nil {
		t.Fatal(err)
	}
	watchdog := time.AfterFunc(30*time.Second, func() { _ = s.group.Kill(context.Background()) })
	defer watchdog.Stop()
	status, by, err := job.Wait()
	if status != 0 || by != 0 || err != nil {
		t.Logf("it ended with status %d, signal %v, %v: %s", status, by, err, s.said())
		return "it does not go on"
	}
	if _, err := os.Stat(filepath.Join(s.dir, "wrong")); err == nil {
		return "its result is wrong"
	}
	return goesOnWell
}

const goesOnWell = "goes on"

// reasons are those of a refusal, without numbers and names, each once.
func reasons(refused *RefusedError) string {
	var all []string
	for _, o := range refused.Obstacles {
		what, _, _ := strings.Cut(o.What, ":")
		what = regexp.MustCompile(`[0-9]+`).ReplaceAllString(what, "N")
		if !slices.Contains(all, what) {
			all = append(all, what)
		}
	}
	slices.Sort(all)
	return strings.Join(all, "; ")
}

// The table of docs/checkpoint.md says what each program does, and is what this test
// wants. With FREEZER_TABLE it writes what it saw in its place.
func TestProgramsAreCarried(t *testing.T) {
	table, err := newProgramTable(filepath.Join("..", "docs", "checkpoint.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range programs {
		t.Run(p.name, func(t *testing.T) {
			needRoot(t)
			saw := goes(t, p.need, p.argv)
			if saw == "" {
				t.Skip(p.need + " is not here")
			}
			table.see(t, p.name, saw)
		})
	}
	if os.Getenv("FREEZER_TABLE") != "" && !t.Failed() {
		if err := table.write(); err != nil {
			t.Fatal(err)
		}
	}
}

// A programTable is the table in a document.
type programTable struct {
	path, before, after string
	rows                map[string]string
	order               []string
}

const (
	tableHead = "| program | |\n|---|---|\n"
	tableEnd  = "\n\n"
)

func newProgramTable(path string) (*programTable, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	before, rest, ok := strings.Cut(string(text), tableHead)
	body, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		return nil, fmt.Errorf("%s has no table of programs", path)
	}
	t := &programTable{path: path, before: before, after: after, rows: map[string]string{}}
	for line := range strings.Lines(body + "\n") {
		if f := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | "); len(f) == 2 {
			name := strings.TrimSpace(f[0])
			t.order = append(t.order, name)
			t.rows[name] = strings.TrimSpace(f[1])
		}
	}
	return t, nil
}

// see compares what was seen with the table, or notes it.
func (p *programTable) see(t *testing.T, name, saw string) {
	t.Helper()
	want, known := p.rows[name]
	if os.Getenv("FREEZER_TABLE") == "" {
		is, _, _ := strings.Cut(saw, ":") // the reasons are of a moment
		if want, _, _ := strings.Cut(want, ":"); is != want {
			t.Errorf("%s; the table of %s says %q (make programs writes it anew)", saw, p.path, want)
		}
		return
	}
	if !known {
		p.order = append(p.order, name)
	}
	p.rows[name] = saw
	t.Log(saw)
}

func (p *programTable) write() error {
	text := p.before + tableHead
	for i, name := range p.order {
		if i > 0 {
			text += "\n"
		}
		text += "| " + name + " | " + p.rows[name] + " |"
	}
	return os.WriteFile(p.path, []byte(text+tableEnd+p.after), 0o644)
}
