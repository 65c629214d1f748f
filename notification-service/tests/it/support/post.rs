//! The SMTP server of `smtp_server.py` on a port of its own, to be started, stopped and looked into.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{LazyLock, Mutex};

use serde_json::Value;

/// The library that the server is made of, from PyPI; kept below `target`.
static AIOSMTPD: LazyLock<PathBuf> = LazyLock::new(|| {
    const VERSION: &str = "1.4.6";
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("aiosmtpd-{VERSION}"));
    if !folder.exists() {
        // Into a folder of this process's own, so that a second one does not see half of it.
        let unfinished = folder.with_extension(format!("{}", std::process::id()));
        let installed = Command::new("python3")
            .env("PIP_ROOT_USER_ACTION", "ignore")
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"])
            .arg(&unfinished)
            .arg(format!("aiosmtpd=={VERSION}"))
            .status()
            .unwrap();
        assert!(installed.success(), "these tests need Python 3 with pip");
        let _ = std::fs::rename(&unfinished, &folder);
    }
    folder
});

pub(crate) struct Post {
    port: u16,
    file: PathBuf,
    running: Mutex<Option<(Child, ChildStdin)>>,
}

/// A mail as the server took it.
#[derive(Clone, Debug)]
pub(crate) struct Mail(Value);

impl Post {
    /// A port and an empty mailbox. Nobody listens yet.
    pub(crate) fn new(what: &str) -> Self {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{what}.mails"));
        // Free a moment ago; the system gives out others first.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { port, file, running: Mutex::default() }
    }

    pub(crate) fn url(&self) -> String {
        format!("smtp://{}", self.place())
    }

    /// Host and port.
    pub(crate) fn place(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn start(&self) {
        self.start_with(&[]);
    }

    /// One that is encrypted or wants a login, by options of `smtp_server.py`.
    pub(crate) fn start_with(&self, options: &[&str]) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/smtp_server.py");
        let log = self.beside(".log");
        let mut child = Command::new("python3")
            .arg(script)
            .arg(self.port.to_string())
            .arg(&self.file)
            .args(options)
            .env("PYTHONPATH", &*AIOSMTPD)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::options().create(true).append(true).open(&log).unwrap())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        assert_eq!(line, "listening\n", "see {}", log.display());
        *self.running.lock().unwrap() = Some((child, stdin));
    }

    pub(crate) fn stop(&self) {
        if let Some((mut child, _)) = self.running.lock().unwrap().take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// What was put off is taken from now on.
    pub(crate) fn open(&self) {
        std::fs::write(self.beside(".open"), "").unwrap();
    }

    /// Who logged in with what, as `user:password`.
    pub(crate) fn logins(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.beside(".logins")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// A file that has the mailbox's name and this behind it.
    pub(crate) fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.file.clone().into_os_string();
        name.push(suffix);
        name.into()
    }

    /// All mails that were taken, in their order.
    pub(crate) fn mails(&self) -> Vec<Mail> {
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        text.lines().map(|line| Mail(serde_json::from_str(line).unwrap())).collect()
    }

    /// The `Message-ID`s of all mails, in their order.
    pub(crate) fn message_ids(&self) -> Vec<String> {
        self.mails().iter().map(|mail| mail.header("message-id").to_owned()).collect()
    }
}

impl Drop for Post {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Mail {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.0["headers"][name].as_str().unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0["headers"].get(name).is_some()
    }

    pub(crate) fn to(&self) -> &str {
        self.0["to"][0].as_str().unwrap()
    }

    pub(crate) fn text(&self) -> &str {
        self.0["text"].as_str().unwrap()
    }

    /// Its part in HTML, if it has one.
    pub(crate) fn page(&self) -> Option<&str> {
        self.0["page"].as_str()
    }
}
