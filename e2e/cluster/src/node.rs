//! What can be done to a pod from its node, behind Kubernetes' back: signals to its processes, a hog in its memory, its packets dropped.

use crate::cluster::Cluster;

/// Processes of a pod's containers are found by the pod's name, which each has in its environment as HOSTNAME.
fn find(program: &str, pod: &str) -> String {
    format!(
        "for p in /proc/[0-9]*; do if [ \"$(cat $p/comm 2>/dev/null)\" = {program} ] && tr '\\0' '\\n' <$p/environ 2>/dev/null | grep -qx HOSTNAME={pod}; \
         then pid=${{p#/proc/}}; break; fi; done; [ -n \"${{pid:-}}\" ] || {{ echo no process {program} of pod {pod} >&2; exit 1; }}; "
    )
}

impl Cluster {
    /// What a shell command says of the process of that name in a pod, `$pid`. An error if there is none.
    pub async fn of_process(&self, program: &str, pod: &str, command: &str) -> Result<String, String> {
        self.on_node(&format!("{}{command}", find(program, pod))).await
    }

    /// Sends a signal (`KILL`, `STOP`, `CONT`) to the process of that name in a pod. An error if there is none.
    pub async fn signal(&self, program: &str, pod: &str, signal: &str) -> Result<(), String> {
        self.on_node(&format!("{}kill -{signal} $pid", find(program, pod))).await.map(drop)
    }

    /// Eats memory inside the container of a pod's process until its limit kills that process.
    pub async fn exhaust_memory(&self, program: &str, pod: &str) -> Result<(), String> {
        // The first version of cgroups has the memory controller in a hierarchy of its own; the second has one for all.
        let script = format!(
            "{}path=$(sed -n 's/^[0-9]*:memory://p' /proc/$pid/cgroup); group=/sys/fs/cgroup/memory$path; \
             [ -n \"$path\" ] || group=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/$pid/cgroup); \
             sh -c \"echo \\$\\$ >$group/cgroup.procs && echo 0 >/proc/self/oom_score_adj; head -c 8G /dev/zero | tail -c 8G\" >/dev/null 2>&1 & hog=$!; \
             while [ -e /proc/$pid ] && [ -e /proc/$hog ]; do sleep 0.05; done; kill -9 $hog 2>/dev/null; [ ! -e /proc/$pid ]",
            find(program, pod)
        );
        self.on_node(&script).await.map(drop)
    }

    /// Drops, or no longer drops, all packets between two addresses in one direction; an absent address is any.
    pub async fn drop_packets(&self, from: Option<&str>, to: Option<&str>, dropped: bool) {
        let word = if dropped { "-I" } else { "-D" };
        let part =
            |flag: &str, address: Option<&str>| address.map(|address| format!(" {flag} {address}")).unwrap_or_default();
        let rule = format!("{word} FORWARD{}{} -j DROP", part("-s", from), part("-d", to));
        self.on_node(&format!("iptables -w {rule}")).await.unwrap_or_else(|error| panic!("{error}"));
    }
}
