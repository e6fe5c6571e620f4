//! Damage anywhere: found and named, or of no difference; never given out as true.

use tally_tests::simulation::damages::{Of, Verdict, run};

/// Protects every reader of log, redo file, sled and keys file from bytes that are not as they were
/// written: each random damage of a file at rest is refused, found, rebuilt or harmless.
#[test]
fn no_damage_is_a_silent_wrong_answer() {
    let counts = run(7, 1_600);
    println!("{counts}");
    assert!(counts.is_right(), "{counts}\n{:#?}", counts.bad);
    for (of, verdict) in [
        (Of::Log, Verdict::RefusedAtOpen),
        (Of::Log, Verdict::FoundOnRead),
        (Of::Redo, Verdict::Rebuilt),
        (Of::Sled, Verdict::Rebuilt),
        (Of::Keys, Verdict::RefusedAtOpen),
    ] {
        assert!(counts.by.contains_key(&(of, verdict)), "{counts}");
    }
}
