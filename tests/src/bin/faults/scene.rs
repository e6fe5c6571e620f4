//! One server under load, what happens to it, and what is left: the frame of every case.

use serde_json::Value;
use tally_tests::fold::assert_state_is_fold_of_log;
use tally_tests::load::{Load, Told};
use tally_tests::server::interaction_request;
use tally_tests::{Folder, Request, Response, Server, wait};

use tally_tests::preload::Control;

/// What a case came to: one line of the table.
#[derive(Debug, Clone, Default)]
pub(crate) struct Row {
    /// The answer to an interaction while it lasted.
    pub(crate) answer: String,
    /// What `/readyz` said.
    pub(crate) ready: String,
    /// What the service's log said.
    pub(crate) said: String,
    /// Events that were acknowledged, and how many of them are not in the log, or counted twice.
    pub(crate) acknowledged: usize,
    pub(crate) lost: usize,
    pub(crate) doubled: usize,
}

/// A server under load.
pub(crate) struct Scene {
    pub(crate) folder: Folder,
    pub(crate) control: Control,
    pub(crate) server: Server,
    load: Option<Load>,
    told: Told,
    row: Row,
}

impl Scene {
    /// Starts a server on the folder, and a load that has its first answers.
    pub(crate) fn start(folder: Folder) -> Self {
        let (folder, control) = Control::over(folder);
        let server = folder.start();
        let mut scene = Self {
            folder,
            control,
            server,
            load: None,
            told: Told::default(),
            row: Row::default(),
        };
        scene.load_again();
        scene
    }

    /// Starts the load anew, for instance on a server that was started anew.
    pub(crate) fn load_again(&mut self) {
        self.end_load();
        let load = Load::start(self.server.api(), 8);
        load.answers(200);
        self.load = Some(load);
    }

    /// Waits for so many more answers, of any kind.
    pub(crate) fn answers(&self, more: usize) {
        self.load.as_ref().expect("a load").answers(more);
    }

    /// Ends the load; what it was told is kept.
    pub(crate) fn end_load(&mut self) {
        if let Some(load) = self.load.take() {
            let told = load.stop();
            self.told.acknowledged.extend(told.acknowledged);
            self.told.refused.extend(told.refused);
        }
    }

    /// Sends interactions until one is answered so, and notes the answer.
    pub(crate) fn answer(&mut self, status: u16) -> Response {
        let what = format!("an interaction answered with {status}");
        let answer = wait::until(&what, || {
            let request = interaction_request("quest", 42, "view");
            let answer = request.try_send(self.server.api()).ok()?;
            if answer.status == 200 {
                self.told.acknowledged.push(answer.json());
            }
            (answer.status == status).then_some(answer)
        });
        if status != 200 {
            let after = answer.header("retry-after").unwrap_or_default();
            assert!(after.parse::<u32>().is_ok(), "Retry-After: {after:?}");
        }
        self.row.answer = match answer.json()["code"].as_str() {
            Some(code) => format!("{status} {code}"),
            None => status.to_string(),
        };
        answer
    }

    /// Waits until `/readyz` gives this reason, and notes it.
    pub(crate) fn not_ready(&mut self, code: &str) {
        let mut last = String::new();
        let come = wait::within(wait::DEADLINE, || {
            let answer = Request::get("/readyz")
                .try_send(self.server.management())
                .ok()?;
            last = answer.text();
            let body = answer.json();
            let reasons: &[Value] = body["reasons"].as_array().map_or(&[], Vec::as_slice);
            reasons
                .iter()
                .any(|reason| reason["code"] == code)
                .then_some(())
        });
        assert!(come.is_some(), "/readyz does not say {code}: {last}");
        self.row.ready = format!("503 {code}");
    }

    /// Notes that it stayed ready.
    pub(crate) fn still_ready(&mut self) {
        let answer = self.server.ready();
        assert_eq!(answer.status, 200, "{}", answer.text());
        self.row.ready = "200 ready".to_owned();
    }

    /// What is known can be read.
    pub(crate) fn reads_go_on(&self) {
        let answer = self.server.resource("quest", 42);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// Waits for a line of the service's log with this in it, and notes it.
    pub(crate) fn says(&mut self, words: &str) {
        let line = wait::until(&format!("a line with {words:?}"), || {
            let output = self.server.output();
            let has = |line: &&str| line.contains(words);
            // What a panic prints is there too; the service's own words say more.
            let own = output
                .lines()
                .filter(|line| line.starts_with('{'))
                .find(has);
            own.or_else(|| output.lines().find(has)).map(str::to_owned)
        });
        self.note(&line);
    }

    /// Notes a line of the service's log, or what a command said.
    pub(crate) fn note(&mut self, line: &str) {
        let message = serde_json::from_str::<Value>(line).ok().map(|value| {
            let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
            let why = [text("why"), text("reasons"), text("thread")].concat();
            format!("{} {} {why}", text("level"), text("message"))
        });
        self.row.said = message.unwrap_or_else(|| line.trim().to_owned());
    }

    /// Waits until the state was opened again beneath the server. Nobody was told anything else than a
    /// verdict meanwhile: who waits, waits on.
    pub(crate) fn opened_again(&mut self) {
        wait::until("the state is opened again", || {
            let metrics = self.server.metrics();
            (metrics.sum("tally_projector_reopened_total", &[]) > 0.0).then_some(())
        });
        self.end_load();
        let told = self.told.acknowledged.iter();
        let in_doubt = told.filter(|answer| answer["visible"] == false).count();
        assert_eq!(in_doubt, 0, "everybody had a verdict");
        self.load_again();
    }

    /// Notes what there was instead of an answer.
    pub(crate) fn no_answer(&mut self, answer: &str, ready: &str) {
        self.row.answer = answer.to_owned();
        self.row.ready = ready.to_owned();
    }

    /// A clean stop of the server.
    pub(crate) fn stop(&mut self) {
        self.server.sigterm();
        self.end_load();
        let status = self.server.wait_for_end();
        assert!(status.success(), "{status}:\n{}", self.server.output());
    }

    /// Another server on the folder refuses to start, and says all of these words.
    pub(crate) fn refuses_to_start(&mut self, words: &[&str]) {
        let said = self.folder.run(&["serve"]).failed();
        for word in words {
            assert!(said.contains(word), "no {word:?} in: {said}");
        }
        let error = said.lines().find(|line| line.contains(words[0]));
        self.note(error.unwrap_or_default());
        self.no_answer("none: no start", "none");
    }

    /// Kills the server, where it still runs, and starts the next without waiting for anything but
    /// its listeners.
    pub(crate) fn spawn(&mut self) {
        self.server.kill();
        self.end_load();
        self.server = Server::spawn(&self.folder);
        self.server.wait_until_bound();
    }

    /// Kills the server, where it still runs, and starts the next.
    pub(crate) fn restart(&mut self) {
        self.spawn();
        self.server.wait_until_ready();
    }

    /// Waits until it is ready again, takes a last load, and holds what clients were told against
    /// the log, and the state against a fold of the log.
    pub(crate) fn end(mut self) -> Row {
        self.server.wait_until_ready();
        self.load_again();
        self.end_load();
        self.told.assert_only_conflicts_and_unavailable();
        self.server.wait_until_quiet();
        let folded = assert_state_is_fold_of_log(&self.folder);
        let records = |answer: &Value| {
            let id = answer["event_id"].as_str().expect("an event id");
            folded.records_of_event.get(id).copied().unwrap_or_default()
        };
        let records: Vec<u32> = self.told.acknowledged.iter().map(records).collect();
        self.row.acknowledged = records.len();
        self.row.lost = records.iter().filter(|count| **count == 0).count();
        self.row.doubled =
            records.iter().filter(|count| **count > 1).count() + folded.counted_again.len();
        assert_eq!((self.row.lost, self.row.doubled), (0, 0), "lost, doubled");
        self.told.assert_all_there(&folded);
        self.row
    }
}
