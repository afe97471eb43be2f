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
}

func TestProgramsAreCarried(t *testing.T) {
	for _, p := range programs {
		t.Run(p.name, func(t *testing.T) {
			path, err := exec.LookPath(p.argv[0])
			if p.name == "python3" && err == nil {
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
