//! What a person sees who starts the server for the first time, and what a container or a supervisor sees of
//! it that runs commands beside it.

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

/// Protects commands beside a server whose settings are in a file, as `exec` in a container runs them: the file
/// that the environment names is read as one of the command line is, and the command line wins.
#[test]
fn the_environment_can_name_the_file_of_settings() {
    let folder = Folder::new();
    let file = folder.root().join("tally.toml");
    fs::write(&file, "[log]\npartitions = 3\n").expect("a file");
    let folder = folder.with("TALLY_CONFIG", file.display());
    let shown = folder.run(&["config", "show"]).ok();
    assert!(shown.contains("partitions = 3"), "{shown}");
    let other = folder.root().join("other.toml").display().to_string();
    fs::write(&other, "[log]\npartitions = 5\n").expect("a file");
    let shown = folder.run(&["config", "show", "--config", &other]).ok();
    assert!(shown.contains("partitions = 5"), "{shown}");
    let refused = folder.with("TALLY_CONFIG", "absent.toml").run(&["serve"]);
    assert!(refused.failed().contains("absent.toml"));
}

/// Protects who acts on the exit code of `tally health`: 0 beside a server that serves, 1 where there is none.
#[test]
fn health_is_an_exit_code() {
    let folder = Folder::new().with_fixed_ports();
    let none = folder.run(&["health"]);
    assert_eq!(none.status.code(), Some(1), "{none:?}");
    let server = folder.start();
    assert_eq!(folder.run(&["health"]).ok(), "ready\n");
    assert_eq!(folder.run(&["health", "--live"]).ok(), "alive\n");
    server.kill9();
    let gone = folder.run(&["health", "--live"]);
    assert_eq!(gone.status.code(), Some(1), "{gone:?}");
    assert!(gone.failed().contains("management.listen"));
}
