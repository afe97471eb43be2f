//go:build amd64

package checkpoint

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Programs that know nothing of this are in the midst of their work, say ready,
// and end with status 0 when their work, after the restore, comes out right. They
// go on when there is a file named go.
var programs = []struct {
	name string
	argv []string
}{
	{"bash", []string{"bash", "-c", `
		(echo ready >&2; n=0; until [ -e go ]; do n=$((n+1)); echo $n; sleep 0.01; done; echo end) |
		(sum=0; while read -r x && [ "$x" != end ]; do last=$x; sum=$((sum+x)); done; [ $sum = $((last*(last+1)/2)) ] && [ "$x" = end ])`}},
	{"python3", []string{"python3", "-c", `
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
	{"python3 and a busy terminal", []string{"python3", "-c", `
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
	{"perl", []string{"perl", "-e", `
use strict; $| = 1;
my %h = map { $_ => "x" x ($_ % 50) } 1 .. 20000;
my $pid = open(my $kid, "-|") // die; if (!$pid) { sleep 1 until -e "go"; print "kid\n"; exit 0 }
print "ready\n";
select(undef, undef, undef, 0.01) until -e "go";
for (1 .. 20000) { die unless length($h{$_}) == $_ % 50 }
die unless <$kid> eq "kid\n"; close $kid or die;
`}},
	{"sqlite3", []string{"sh", "-c", `cat >script <<'END'
create table t(x); insert into t with recursive n(v) as (select 1 union all select v + 1 from n where v < 10000) select v from n;
create temp table u as select x * 2 as y from t;
.system echo ready
.system until [ -e go ]; do sleep 0.01; done
insert into t select y from u;
.once result
select case when count(*) = 20000 and sum(x) = 150015000 then 'right' else 'wrong' end from t;
.system grep -q right result || touch wrong
END
exec sqlite3 -batch -bail db <script`}},
	{"gcc", []string{"sh", "-c", `
printf '#include <stdio.h>\n' >a.c
i=0; while [ $i -lt 120 ]; do i=$((i+1)); echo "double f$i(double x) { double y = x; for (int i = 0; i < 10; i++) y = y * $i + x / (y + i); return y; }"; done >>a.c
echo 'int main(void) { printf("%.3f", f7(1)); return 0; }' >>a.c
gcc -O2 -o a a.c & sleep 0.1; echo ready; wait $! && ./a >result`}},
	{"tmux", []string{"sh", "-c", `
type() { tmux -S sock -f /dev/null send-keys "$@"; }
begun() { until [ -e "$1" ]; do sleep 0.02; done; }
tmux -S sock -f /dev/null new-session -d -x 90 -y 20 "exec bash --norc -i"
type 'x=remembered; tty >tty; stty -a >stty; sleep 1000 & touch asleep; cat' Enter
begun asleep; sleep 0.1; echo ready; begun go
type 'a line' Enter
until tmux -S sock capture-pane -p | tail -n +2 | grep -q '^a line'; do sleep 0.02; done
type C-c
type 'tty | cmp - tty && stty -a | cmp - stty && jobs %1 && [ $x = remembered ] && touch /dev/tty right; kill %1; exit' Enter
while tmux -S sock has-session; do sleep 0.02; done; [ -e right ]`}},
	{"vim", []string{"sh", "-c", `
type() { tmux -S sock -f /dev/null send-keys "$@"; }
shows() { until tmux -S sock capture-pane -p -t "$1" | grep -q "$2"; do sleep 0.02; done; }
tmux -S sock -f /dev/null new-session -d -x 90 -y 20 "exec vim -u NONE text"
type 'ihello from vim'
tmux -S sock new-window "exec top -d 0.1"
shows :0 hello; shows :1 load; echo ready
until [ -e go ]; do sleep 0.02; done
tmux -S sock send-keys -t :0 ' again' Escape ':wq' Enter
until [ -e text ]; do sleep 0.02; done
tmux -S sock send-keys -t :1 h; shows :1 Toggle:
while tmux -S sock has-session; do tmux -S sock send-keys -t :1 q; sleep 0.1; done
grep -q '^hello from vim again$' text`}},
	{"redis-server", []string{"sh", "-c", `
port=$((20000 + $$ % 10000))
redis-server --port $port --bind 127.0.0.1 --unixsocket sock --save '' >log & pid=$!
until redis-cli -s sock set key value; do sleep 0.02; done
i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo "rpush list $i"; done | redis-cli -s sock >pushed
echo ready; until [ -e go ]; do sleep 0.02; done
[ "$(redis-cli -p $port get key)" = value ] && [ "$(redis-cli -s sock lindex list 1999)" = 2000 ] && redis-cli -s sock shutdown nosave; wait $pid`}},
	{"python3 with asyncio", []string{"python3", "-c", `
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
	{"node", []string{"node", "-e", `
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
	{"script", []string{"sh", "-c", `
(until [ -e go ]; do sleep 0.02; done; echo 'tty | cmp - tty && [ $x = remembered ] && touch right'; echo exit) |
(sleep 0.3; echo 'x=remembered; tty >tty; touch begun'; cat) | script -qec "bash --norc -i" typescript >/dev/null &
until [ -e begun ]; do sleep 0.02; done; echo ready; wait $!; [ -e right ]`}},
}

func TestProgramsAreCarried(t *testing.T) {
	for _, p := range programs {
		t.Run(p.name, func(t *testing.T) {
			path, err := exec.LookPath(p.argv[0])
			if p.argv[0] == "python3" && err == nil {
				path, err = filepath.EvalSymlinks("/usr/bin/python3")
			}
			if err == nil && p.argv[0] == "sh" {
				_, err = exec.LookPath(p.name)
			}
			if err != nil {
				t.Skip(err)
			}
			s := start(t, exec.Command(path, p.argv[1:]...))
			image := s.save(t, Killed)
			job := s.restore(t, image)
			if err := os.WriteFile(filepath.Join(s.dir, "go"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			ends(t, s, job)
			if _, err := os.Stat(filepath.Join(s.dir, "wrong")); err == nil {
				t.Error("its result is wrong")
			}
		})
	}
}
