//! What a person sees who starts the server for the first time.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use tally_tests::{Folder, Request, Server};

/// The arguments that a shell hands to `curl` for a pasted line. `curl` itself need not be there.
fn arguments(server: &Server, line: &str) -> Vec<String> {
    let bin = server.folder().root().join("bin");
    fs::create_dir(&bin).expect("a folder");
    let curl = bin.join("curl");
    fs::write(&curl, "#!/bin/sh\nprintf '%s\\0' \"$@\"\n").expect("a script");
    fs::set_permissions(&curl, fs::Permissions::from_mode(0o755)).expect("a script");
    let output = Command::new("/bin/sh")
        .args(["-c", line])
        .env("PATH", &bin)
        .output()
        .expect("a shell");
    assert!(output.status.success(), "{line}: {output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    text.split_terminator('\0').map(str::to_owned).collect()
}

/// Sends what `curl` would send with these arguments.
fn as_curl_would(server: &Server, arguments: &[String]) -> Request {
    let base = format!("http://{}", server.api());
    let url = arguments.iter().find_map(|word| word.strip_prefix(&base));
    let path = url.unwrap_or_else(|| panic!("no url of {base}: {arguments:?}"));
    let mut request = Request::post(path);
    let mut words = arguments.iter();
    let mut data = None;
    while let Some(word) = words.next() {
        match word.as_str() {
            "-H" | "--header" => {
                let header = words.next().expect("a header");
                let (name, value) = header.split_once(": ").expect("a name and a value");
                request = request.header(name, value);
            }
            "-d" | "--data" => data = words.next(),
            "--json" => {
                request = request.header("Content-Type", "application/json");
                data = words.next();
            }
            "-X" | "--request" => assert_eq!(words.next().map(String::as_str), Some("POST")),
            other => assert!(
                other.starts_with(&base) || other.starts_with("-s") || other == "-i",
                "{other}"
            ),
        }
    }
    request.body(data.expect("a body"))
}

#[test]
fn the_curl_line_works_as_pasted() {
    let server = Folder::new().start();
    let output = server.output();
    let at = output
        .find("curl ")
        .unwrap_or_else(|| panic!("no curl line: {output}"));
    // A pasted line goes on where it ends in a backslash.
    let pasted = output[at..].replace("\\\n", " ");
    let line = pasted.lines().next().unwrap_or_default();
    let arguments = arguments(&server, line);
    let answer = as_curl_would(&server, &arguments).send(server.api());
    assert_eq!(answer.ok()["outcome"], "applied");
}
