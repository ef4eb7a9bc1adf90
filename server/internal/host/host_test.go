package host

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestCPUs(t *testing.T) {
	const self, v2, v1 = "/proc/self/cgroup", "/sys/fs/cgroup", "/sys/fs/cgroup/cpu"
	for _, c := range []struct {
		name     string
		affinity int
		files    map[string]string
		want     int
	}{
		{"no groups", 4, nil, 4},
		{"no limit", 4, map[string]string{self: "0::/\n", v2 + "//cpu.max": "max 100000\n"}, 4},
		{"limit of the leaf", 8, map[string]string{
			self: "0::/a/b\n", v2 + "/a/b/cpu.max": "200000 100000\n"}, 2},
		{"limit above the leaf", 8, map[string]string{self: "0::/a/b\n",
			v2 + "/a/b/cpu.max": "max 100000\n", v2 + "/a/cpu.max": "300000 100000\n"}, 3},
		{"root of a container", 8, map[string]string{
			self: "0::/\n", v2 + "//cpu.max": "150000 100000\n"}, 2},
		{"less than one", 8, map[string]string{
			self: "0::/\n", v2 + "//cpu.max": "20000 100000\n"}, 1},
		{"more than the mask", 2, map[string]string{
			self: "0::/\n", v2 + "//cpu.max": "800000 100000\n"}, 2},
		{"outside the namespace", 2, map[string]string{self: "0::/../x\n"}, 2},
		{"version 1", 8, map[string]string{
			self:                        "5:memory:/d\n4:cpu,cpuacct:/d\n",
			v1 + "/d/cpu.cfs_quota_us":  "300000\n",
			v1 + "/d/cpu.cfs_period_us": "100000\n"}, 3},
		{"version 1 without limit", 8, map[string]string{
			self:                        "4:cpu,cpuacct:/d\n",
			v1 + "/d/cpu.cfs_quota_us":  "-1\n",
			v1 + "/d/cpu.cfs_period_us": "100000\n"}, 8},
		{"nonsense", 3, map[string]string{
			self: "x\n0::/\n", v2 + "//cpu.max": "many 0\n"}, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := cpus(c.affinity, func(name string) string { return c.files[name] })
			if got != c.want {
				t.Errorf("got %d CPUs, want %d", got, c.want)
			}
		})
	}
	if CPUs() < 1 {
		t.Errorf("this machine has %d CPUs", CPUs())
	}
}

func TestFilesMaxIsTheHardLimit(t *testing.T) {
	got, err := RaiseFilesMax()
	if err != nil {
		t.Fatal(err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if got < 1 || limit.Cur+1 < limit.Max {
		t.Errorf("got %d with soft limit %d of %d", got, limit.Cur, limit.Max)
	}
}
