//! The page for browsers: who is let in, and what a person sees and does there, in a real browser.
//!
//! The browser is fetched by `cargo xtask oracle --browser`; without it that test is SKIPPED.
//! `UMD_WRITE_DOCS=1` keeps its picture as docs/page.png.

mod common;

use common::{Home, PATIENCE, eventually, pattern};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const PICTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/page.png");

/// One request over TCP; the whole answer.
fn tcp(address: &str, head: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
    let length = body.len();
    let text = format!("{head}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(text.as_bytes()).expect("sends");
    let (mut answer, mut part) = (Vec::new(), [0; 65536]);
    // Not every server closes when it is asked to.
    while !is_whole(&answer) {
        let count = stream.read(&mut part).expect("answers");
        if count == 0 {
            break;
        }
        answer.extend_from_slice(&part[..count]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Whether an answer that tells its length has come to its end.
fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    let length = length.and_then(|text| text.trim().parse::<usize>().ok());
    length.is_some_and(|length| answer.len() >= end + 4 + length)
}

fn status(answer: &str) -> u16 {
    let word = answer.split(' ').nth(1).expect("a status");
    word.parse().expect("a number")
}

/// The door's address and token.
fn door(home: &Home) -> (String, String) {
    let url = home.umd("web").ok().out.trim().to_owned();
    let rest = url.strip_prefix("http://").expect("a URL");
    let (address, token) = rest.split_once("/?token=").expect("a token");
    (address.to_owned(), token.to_owned())
}

#[test]
fn nobody_comes_in_without_the_token_or_under_another_name() {
    let home = Home::new();
    home.umd("create r1 -l1 -n2 --size 4M --assume-clean a b")
        .ok();
    let (address, token) = door(&home);
    let host = format!("Host: {address}");
    let ask = |line: &str, more: &str| tcp(&address, &format!("{line} HTTP/1.1\r\n{more}"), "");
    for path in [
        "/",
        "/v1/arrays",
        "/metrics",
        "/page.js",
        "/?token=",
        "/?token=0000",
    ] {
        let answer = ask(&format!("GET {path}"), &host);
        assert_eq!(status(&answer), 401, "{path}: {answer}");
    }
    let stop = ask("POST /v1/arrays/r1/stop", &host);
    assert_eq!(status(&stop), 401, "{stop}");
    let bearer = format!("{host}\r\nAuthorization: Bearer {token}");
    assert_eq!(status(&ask("GET /v1/arrays", &bearer)), 200);
    let welcome = ask(&format!("GET /?token={token}"), &host);
    assert_eq!(status(&welcome), 303, "{welcome}");
    let cookie = format!("umd={token}; HttpOnly; SameSite=Strict; Path=/");
    assert!(welcome.contains(&cookie), "{welcome}");
    let with_cookie = format!("{host}\r\nCookie: umd={token}");
    let page = ask("GET /", &with_cookie);
    assert_eq!(status(&page), 200);
    assert!(
        page.to_lowercase()
            .contains("content-security-policy: default-src 'self'")
    );
    // A name that somebody else lets point here.
    let evil = format!("Host: evil.example\r\nCookie: umd={token}");
    assert_eq!(status(&ask("GET /v1/arrays", &evil)), 403);
    assert_eq!(home.detail("r1")["array_state"], "clean");
    for elsewhere in ["0.0.0.0:0", "[::]:0", "nonsense"] {
        home.umd(&format!("web {elsewhere}")).fails(2);
    }
    // Over the socket, which only its owner can open, no token is needed.
    let text = home.umd("detail r1").ok().out;
    assert!(text.contains("raid1"), "{text}");
}

/// The folder of the browser, if it is there.
fn browser() -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/oracle-browser");
    let dir = std::env::var_os("UMD_BROWSER_DIR").map_or(target, PathBuf::from);
    dir.join("stamp").is_file().then(|| dir.join("root"))
}

/// A browser without a window, driven over WebDriver.
struct Browser {
    driver: Child,
    address: String,
    session: String,
    /// Its profile and fonts; removed with it.
    _home: tempfile::TempDir,
}

impl Browser {
    fn start(root: &Path) -> Browser {
        let home = tempfile::tempdir().expect("tempdir");
        let fonts = home.path().join("fonts.conf");
        let text = format!(
            "<?xml version=\"1.0\"?><fontconfig><dir>{0}/usr/share/fonts</dir>\
             <dir>/usr/share/fonts</dir><cachedir>{1}/cache</cachedir></fontconfig>",
            root.display(),
            home.path().display()
        );
        fs::write(&fonts, text).expect("writes");
        let libraries = [
            "usr/lib/x86_64-linux-gnu",
            "usr/lib/x86_64-linux-gnu/pulseaudio",
            "lib/x86_64-linux-gnu",
            "usr/lib/chromium",
        ]
        .map(|dir| root.join(dir).display().to_string());
        let start = || {
            let mut driver = Command::new(root.join("usr/bin/chromedriver"))
                .arg("--port=0")
                .env("LD_LIBRARY_PATH", libraries.join(":"))
                .env("FONTCONFIG_FILE", &fonts)
                .env("HOME", home.path())
                .process_group(0)
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .expect("chromedriver starts");
            let out = BufReader::new(driver.stdout.take().expect("its stdout is a pipe"));
            let port = out.lines().map_while(Result::ok).find_map(|line| {
                let rest = line.split_once("started successfully on port ")?.1;
                rest.trim_end_matches('.').parse::<u16>().ok()
            });
            (driver, port)
        };
        // It looks for a free port and takes it a moment later: others may be faster.
        let mut tries = (0..5).map(|_| start());
        let (driver, port) = tries
            .find_map(|(driver, port)| Some((driver, port?)))
            .expect("chromedriver says its port");
        let mut browser = Browser {
            driver,
            address: format!("127.0.0.1:{port}"),
            session: String::new(),
            _home: home,
        };
        browser.begin(&root.join("usr/lib/chromium/chromium"));
        browser
    }

    fn begin(&mut self, program: &Path) {
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--window-size=1180,1250",
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"binary": program, "args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let session = self.ask("POST", "/session", &wanted);
        self.session = session["sessionId"].as_str().expect("a session").to_owned();
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json",
            self.address
        );
        let answer = tcp(&self.address, &head, &body);
        let (_, body) = answer.split_once("\r\n\r\n").expect("a head");
        let document: Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(status(&answer), 200, "{method} {path}: {document}");
        document["value"].clone()
    }

    fn session(&self, method: &str, path: &str, body: &Value) -> Value {
        self.ask(method, &format!("/session/{}/{path}", self.session), body)
    }

    fn open(&self, url: &str) {
        self.session("POST", "url", &json!({"url": url}));
    }

    fn run(&self, script: &str) -> Value {
        self.session(
            "POST",
            "execute/sync",
            &json!({"script": script, "args": []}),
        )
    }

    /// Waits until the script returns true.
    #[track_caller]
    fn until(&self, what: &str, script: &str) {
        let script = format!("return Boolean({script})");
        eventually(what, || self.run(&script) == json!(true));
    }

    /// A click as a person makes it: on what can be seen.
    #[track_caller]
    fn click(&self, selector: &str) {
        let found = json!({"using": "css selector", "value": selector});
        let element = self.session("POST", "element", &found);
        let id = element
            .as_object()
            .and_then(|object| object.values().next());
        let id = id.and_then(Value::as_str).expect("an element");
        self.session("POST", &format!("element/{id}/click"), &json!({}));
    }

    fn picture(&self) -> Vec<u8> {
        let text = self.session("GET", "screenshot", &Value::Null);
        unbase64(text.as_str().expect("a picture"))
    }

    /// What the page complained of.
    fn complaints(&self) -> Vec<String> {
        let log = self.session("POST", "se/log", &json!({"type": "browser"}));
        let entries = log.as_array().expect("a list").iter();
        let severe = entries.filter(|entry| entry["level"] == "SEVERE");
        severe.map(|entry| entry["message"].to_string()).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let session = format!("/session/{}", self.session);
        let head = format!("DELETE {session} HTTP/1.1\r\nHost: {}", self.address);
        if !self.session.is_empty() && !std::thread::panicking() {
            tcp(&self.address, &head, "");
        }
        // The browser, too, which a driver that is killed leaves behind.
        let group = i32::try_from(self.driver.id()).ok();
        if let Some(group) = group.and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.driver.wait();
    }
}

fn unbase64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |c: u8| DIGITS.iter().position(|d| *d == c).map(|at| at as u32);
    let digits: Vec<u32> = text.bytes().filter_map(digit).collect();
    let group = |group: &[u32]| {
        let bits = group.iter().fold(0, |bits, d| bits << 6 | d) << (6 * (4 - group.len()));
        bits.to_be_bytes()[1..group.len()].to_vec()
    };
    digits.chunks(4).flat_map(group).collect()
}

#[test]
fn a_person_sees_the_arrays_and_acts_only_after_a_question() {
    let Some(root) = browser() else {
        println!("SKIPPED: no browser here; `cargo xtask oracle --browser` fetches one");
        return;
    };
    let home = Home::new();
    let bitmap = "--bitmap internal --bitmap-chunk 256K --delay 1";
    let create = format!("create r5 -l5 -n3 -x1 --size 48M --assume-clean {bitmap} a b c d");
    home.umd(&create).ok();
    home.umd("create r1 -l1 -n2 --size 16M --assume-clean e f")
        .ok();
    eventually("the new bitmap is clean", || {
        home.detail("r5")["bitmap"]["dirty_bits"] == 0
    });
    let browser = Browser::start(&root);
    browser.open(home.umd("web").ok().out.trim());
    let card = "document.querySelector('[data-array=r5]')";
    browser.until(
        "both cards are there",
        "document.querySelectorAll('.array').length === 2",
    );
    assert_eq!(
        browser.run("return location.search"),
        "",
        "the token is out of the address"
    );
    browser.until(
        "r5 is healthy",
        &format!("{card}.querySelector('.badge').textContent === 'healthy'"),
    );
    let slots = browser.run(&format!("return {card}.querySelectorAll('.slot').length"));
    assert_eq!(slots, 4, "three slots and a spare");

    let mut client = home.nbd("r5");
    for round in 0..16 {
        client
            .pwrite((round * 3) << 20, &pattern(round, 1 << 20))
            .expect("writes");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    browser.until(
        "dirty regions are drawn",
        &format!("{card}.querySelector('rect.dirty')"),
    );
    browser.until(
        "throughput is drawn",
        &format!("/write [1-9]/.test({card}.querySelector('.key.w')?.textContent)"),
    );

    let fail = "[data-array=r5] [data-member$='/b'] [data-does=fail]";
    browser.click(fail);
    browser.until("a question is asked", "document.getElementById('ask').open");
    browser.click("#ask button[value=no]");
    browser.until("it is gone", "!document.getElementById('ask').open");
    let members = home.detail("r5")["members"].clone();
    let faulty = |members: &Value| {
        let mut members = members.as_array().expect("members").iter();
        members.any(|member| member["state"] == "faulty")
    };
    assert!(!faulty(&members), "who says no is obeyed");
    home.umd("action r5 --speed-max 4M").ok();
    browser.click(fail);
    browser.until("a question is asked", "document.getElementById('ask').open");
    browser.click("#yes");
    browser.until(
        "the failed member is shown",
        &format!("{card}.querySelector('.slot.faulty')"),
    );
    browser.until(
        "the rebuild is shown",
        &format!("!{card}.querySelector('.sync').hidden"),
    );
    browser.until(
        "the event is told",
        "/Fail r5 b/.test(document.getElementById('events').textContent)",
    );
    assert!(faulty(&home.detail("r5")["members"]));
    if std::env::var_os("UMD_WRITE_DOCS").is_some() {
        std::thread::sleep(std::time::Duration::from_secs(4)); // For the eye: some progress.
        fs::write(PICTURE, browser.picture()).expect("writes");
    }
    home.umd("action r5 --speed-max system").ok();
    home.settle("r5");
    browser.until(
        "it is healthy again",
        &format!("{card}.querySelector('.badge').textContent === 'healthy'"),
    );

    browser.click("[data-array=r1] .actions .grave");
    browser.until("a question is asked", "document.getElementById('ask').open");
    browser.click("#yes");
    browser.until("r1 is gone", "!document.querySelector('[data-array=r1]')");
    assert!(!home.umd("mdstat").ok().out.contains("r1"));
    // What was asked of r1 while it went is answered with 404, and browsers tell that.
    let mut complaints = browser.complaints();
    complaints.retain(|text| !(text.contains("/v1/arrays/r1/") && text.contains("404")));
    assert_eq!(complaints, Vec::<String>::new());
}
