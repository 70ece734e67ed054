//! What can be done to a pod from its node, behind Kubernetes' back: signals to its processes, a hog in its memory, its packets
//! dropped, its kubelet frozen.

use crate::cluster::Cluster;

/// Finds the process of that name in a pod, `$pid`; by the pod's name, which each of its processes has in its environment as
/// HOSTNAME.
fn find(program: &str, pod: &str) -> String {
    format!(
        "for p in $(pgrep -x {program}); do if tr '\\0' '\\n' </proc/$p/environ 2>/dev/null | grep -qx HOSTNAME={pod}; \
         then pid=$p; break; fi; done; "
    )
}

/// The same; an error if there is none.
fn found(program: &str, pod: &str) -> String {
    let none = format!("[ -n \"${{pid:-}}\" ] || {{ echo no process {program} of pod {pod} >&2; exit 1; }}; ");
    find(program, pod) + &none
}

/// Packets that are dropped on the node for as long as this lives.
pub struct Cut {
    cluster: Cluster,
    rules: Vec<String>,
}

/// The node's kubelet, which does nothing for as long as this lives.
pub struct Frozen(Cluster);

impl Cluster {
    /// What a shell command says of the process of that name in a pod, `$pid`. An error if there is none.
    pub async fn of_process(&self, program: &str, pod: &str, command: &str) -> Result<String, String> {
        self.on_node(&format!("{}{command}", found(program, pod))).await
    }

    /// Whether a pod has a process of that name, whatever the API server says of the pod.
    pub async fn has_process(&self, program: &str, pod: &str) -> bool {
        let script = format!("{}echo \"${{pid:-none}}\"", find(program, pod));
        let said = self.on_node(&script).await.unwrap_or_else(|error| panic!("{error}"));
        said.trim() != "none"
    }

    /// Sends a signal (`KILL`, `STOP`, `CONT`) to the process of that name in a pod. An error if there is none.
    pub async fn signal(&self, program: &str, pod: &str, signal: &str) -> Result<(), String> {
        self.on_node(&format!("{}kill -{signal} $pid", found(program, pod))).await.map(drop)
    }

    /// Eats memory inside the container of a pod's process until its limit kills that process.
    pub async fn exhaust_memory(&self, program: &str, pod: &str) -> Result<(), String> {
        // The first version of cgroups has the memory controller in a hierarchy of its own; the second has one for all.
        let script = format!(
            "{}path=$(sed -n 's/^[0-9]*:memory://p' /proc/$pid/cgroup); group=/sys/fs/cgroup/memory$path; \
             [ -n \"$path\" ] || group=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/$pid/cgroup); \
             sh -c \"echo \\$\\$ >$group/cgroup.procs && echo 0 >/proc/self/oom_score_adj; head -c 8G /dev/zero | tail -c 8G\" >/dev/null 2>&1 & hog=$!; \
             while [ -e /proc/$pid ] && [ -e /proc/$hog ]; do sleep 0.05; done; kill -9 $hog 2>/dev/null; \
             [ ! -e /proc/$pid ] || {{ echo the limit killed another process than {program} of pod {pod} >&2; exit 1; }}",
            found(program, pod)
        );
        self.on_node(&script).await.map(drop)
    }

    /// Drops all packets from the first to the second of each pair of addresses; an absent one is any.
    pub async fn cut(&self, ways: &[(Option<&str>, Option<&str>)]) -> Cut {
        let part =
            |flag: &str, address: Option<&str>| address.map(|address| format!(" {flag} {address}")).unwrap_or_default();
        let rule = |(from, to): &(Option<&str>, Option<&str>)| {
            format!("FORWARD{}{} -j DROP", part("-s", *from), part("-d", *to))
        };
        let cut = Cut { cluster: self.clone(), rules: ways.iter().map(rule).collect() };
        self.on_node(&cut.each("-I", " && ")).await.unwrap_or_else(|error| panic!("{error}"));
        cut
    }

    /// Freezes the kubelet. A node counts as ready for 40 s without its kubelet; nothing else of the node is disturbed.
    pub async fn freeze_kubelet(&self) -> Frozen {
        let frozen = Frozen(self.clone());
        self.on_node("pkill -STOP -x kubelet").await.unwrap_or_else(|error| panic!("the kubelet is frozen: {error}"));
        frozen
    }
}

impl Cut {
    /// A command that does the same with each rule.
    fn each(&self, what: &str, then: &str) -> String {
        let commands: Vec<String> = self.rules.iter().map(|rule| format!("iptables -w {what} {rule}")).collect();
        commands.join(then)
    }

    /// Lets the packets through again.
    pub async fn mend(mut self) {
        let mended = self.cluster.on_node(&self.each("-D", " && ")).await;
        mended.unwrap_or_else(|error| panic!("{error}"));
        self.rules.clear();
    }
}

impl Drop for Cut {
    /// Where a case fails: its addresses will be another's.
    fn drop(&mut self) {
        if !self.rules.is_empty() {
            self.cluster.on_node_at_last(&self.each("-D", "; "));
        }
    }
}

impl Frozen {
    /// Lets the kubelet go on.
    pub async fn thaw(self) {
        let thawed = self.0.on_node("pkill -CONT -x kubelet").await;
        thawed.unwrap_or_else(|error| panic!("the kubelet goes on: {error}"));
    }
}

impl Drop for Frozen {
    /// Also where a case fails. A second time does no harm.
    fn drop(&mut self) {
        self.0.on_node_at_last("pkill -CONT -x kubelet");
    }
}
