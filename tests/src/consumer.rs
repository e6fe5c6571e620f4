//! What Kafka's own consumer tool reads, for comparison.

use crate::kafka::Kafka;

/// Reads so many records of a topic by Kafka's tool, in a group that is new: records a second of the whole, and
/// without the time that joining the group took.
///
/// # Panics
/// Where it fails, or says something else.
#[must_use]
pub fn consumer_rates(kafka: &Kafka, topic: &str, records: &str) -> [f64; 2] {
    let said = kafka.measured_cli(&[
        "ConsumerPerformance",
        "--topic",
        topic,
        "--num-records",
        records,
    ]);
    let mut lines = said.lines().filter(|line| line.contains(", "));
    let (names, figures) = (lines.next(), lines.next());
    let row = |line: Option<&str>| -> Vec<String> {
        let words = line.unwrap_or_default().split(", ");
        words.map(|word| word.trim().to_owned()).collect()
    };
    let (names, figures) = (row(names), row(figures));
    ["nMsg.sec", "fetch.nMsg.sec"].map(|name| {
        let place = names.iter().position(|other| other == name);
        let figure = place.and_then(|place| figures.get(place)?.parse().ok());
        figure.unwrap_or_else(|| panic!("no {name} in {said}"))
    })
}

/// The one in the middle, or between the two there.
///
/// # Panics
/// Of none.
#[must_use]
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    let many = figures.len();
    f64::midpoint(figures[(many - 1) / 2], figures[many / 2])
}
