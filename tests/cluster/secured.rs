//! An etcd that speaks TLS alone, asks who is there, and lets nobody in without a password: nodes that have all three form a
//! cluster, and stay one when etcd has forgotten who they are; one that lacks any says so, and stays out.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::etcd::{Etcd, Secured};
use super::node_process::{NodeProcess, quoit};
use super::{children, client, fill, found, owners, present, start, watchdog};

const USER: &str = "quoit";
const PASSWORD: &str = "for this test";

/// Certificates of the test's own, removed with it.
struct Certificates(PathBuf);

impl Certificates {
    /// An authority that signs for etcd and for nodes, and one that signs for nobody.
    fn make() -> Self {
        let made = Self(std::env::temp_dir().join(format!("quoit-certificates-{}", std::process::id())));
        fs::create_dir_all(&made.0).expect("a folder for the test");
        let curve = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
        for authority in ["ca", "stranger"] {
            let what = "-addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign";
            made.openssl(&format!(
                "req -x509 {curve} -keyout {authority}.key -out {authority}.pem -subj /CN={authority} {what}"
            ));
        }
        let extensions = "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n";
        fs::write(made.path("extensions"), extensions).expect("a file for the test");
        for name in ["etcd", "node"] {
            let request = curve.replace(" -days 2", "");
            made.openssl(&format!("req {request} -keyout {name}.key -out {name}.csr -subj /O={name}"));
            let by = "-CA ca.pem -CAkey ca.key -CAcreateserial -extfile extensions -days 2";
            made.openssl(&format!("x509 -req -in {name}.csr -out {name}.pem {by}"));
        }
        made
    }

    fn openssl(&self, arguments: &str) {
        let mut command = Command::new("openssl");
        command.args(arguments.split_whitespace()).current_dir(&self.0).stdin(Stdio::null());
        let output =
            watchdog::within("openssl ends", || command.output()).expect("openssl runs: .ci/setup installs it");
        assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("a path of plain letters").to_owned()
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Lets in [`USER`] alone, and only to what is the nodes' own.
fn ask_for_passwords(etcd: &Etcd, folder: &Path) {
    let root = "root:of this test";
    let grant = ["role", "grant-permission", "quoit", "--prefix=true", "readwrite", "/quoit/"];
    let user = format!("{USER}:{PASSWORD}");
    for arguments in [
        &["user", "add", root][..],
        &["user", "grant-role", "root", "root"],
        &["user", "add", &user],
        &["role", "add", "quoit"],
        &grant,
        &["user", "grant-role", USER, "quoit"],
        &["auth", "enable"],
    ] {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").current_dir(folder).stdin(Stdio::null()).args(["--endpoints", &etcd.url()]);
        command.args(["--cacert", "ca.pem", "--cert", "node.pem", "--key", "node.key"]).args(arguments);
        let output =
            watchdog::within("etcdctl ends", || command.output()).expect("etcdctl runs: .ci/setup installs it");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn an_etcd_with_tls_and_passwords_is_used_by_who_has_them_and_tells_the_others_why_not() {
    let certificates = Certificates::make();
    let mut etcd = Etcd::start_secured(&Secured {
        authority: certificates.path("ca.pem"),
        certificate: certificates.path("etcd.pem"),
        key: certificates.path("etcd.key"),
    });
    ask_for_passwords(&etcd, &certificates.0);
    let url = etcd.url();
    let [ca, certificate, key] = ["ca.pem", "node.pem", "node.key"].map(|name| certificates.text(name));
    let base = ["--etcd", &url, "--cluster", "test", "--cores", "0", "--vnodes", "64"];
    let shown = ["--etcd-cert", certificate.as_str(), "--etcd-key", &key];
    let known = ["--etcd-user", USER, "--etcd-password", PASSWORD];
    let mut nodes = found(&etcd, &["a", "b"], &[&["--etcd-ca", ca.as_str()][..], &shown, &known].concat());
    let mut client = client(nodes["a"].address);
    fill(&mut client);
    assert!(present(&mut client).into_iter().all(|is_there| is_there));
    assert_eq!(owners(&nodes["a"]).0.len(), 2, "each node has a share");

    let stranger = certificates.text("stranger.pem");
    let wrong = ["--etcd-user", USER, "--etcd-password", "another"];
    for (what, arguments, complaint) in [
        (
            "an authority that has not signed for etcd",
            [&["--etcd-ca", stranger.as_str()][..], &shown, &known].concat(),
            "UnknownIssuer",
        ),
        ("no certificate of its own", [&["--etcd-ca", ca.as_str()][..], &known].concat(), "received fatal alert"),
        ("a wrong password", [&["--etcd-ca", ca.as_str()][..], &shown, &wrong].concat(), "invalid user ID or password"),
        ("no password", [&["--etcd-ca", ca.as_str()][..], &shown].concat(), "--etcd-user"),
    ] {
        let arguments = [&base[..], &arguments, &["--node-id", "c", "--memory", "128MiB"]].concat();
        let line = first_complaint(&arguments, complaint);
        println!("{what}: {line}");
    }

    // Nobody has asked anything of etcd for seconds, and after its restart it knows nobody's token: the leader writes all the
    // same what a node that ends, and one that is lost, leave to the others.
    etcd.kill();
    etcd.restart();
    let late = start(&etcd, "late", &[&["--etcd-ca", ca.as_str()][..], &shown, &known].concat());
    late.stop();
    let lost = nodes.remove("b").expect("it is there");
    lost.signal(libc::SIGKILL);
    drop(lost);
    fill(&mut client);
    assert!(present(&mut client).into_iter().all(|is_there| is_there));
    nodes.into_values().for_each(NodeProcess::stop);
}

/// The first line of its log in which a node that does not come up says `text`.
fn first_complaint(arguments: &[&str], text: &str) -> String {
    let mut command = quoit(&["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut node = children::spawn(command).expect("the binary runs");
    let log = std::io::BufReader::new(node.stderr.take().expect("it is piped"));
    let mut said = Vec::new();
    let line = watchdog::within("a node says why it stays out", || {
        let lines = std::io::BufRead::lines(log).map_while(Result::ok).inspect(|line| said.push(line.clone()));
        lines.into_iter().find(|line| line.contains(text))
    });
    // It waits for etcd, or has ended by itself.
    let _ = node.kill();
    let _ = node.wait();
    line.unwrap_or_else(|| panic!("no \"{text}\" in:\n{}", said.join("\n")))
}
