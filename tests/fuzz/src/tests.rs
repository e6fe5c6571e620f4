//! The loop finds what is there to be found, and gives the same inputs for the same seed.

use super::*;

/// Protects everybody who relies on a run without findings: a bug three mutations away is found,
/// made smaller and told.
#[test]
fn a_bug_is_found_and_made_smaller() {
    let target = |input: &[u8]| {
        assert!(!input.windows(3).any(|three| three == b"bug"), "a bug");
        u64::from(input.contains(&b'b')) + 2 * u64::from(input.windows(2).any(|two| two == b"bu"))
    };
    let said = catch_unwind(|| fuzz("self-test", &["b", "u"], target)).expect_err("a finding");
    let said = said.downcast_ref::<String>().expect("a text");
    assert!(said.contains("a bug"), "{said}");
    let path = said.lines().find_map(|line| line.split_once("input: "));
    let (_, path) = path.expect("where the input is");
    assert_eq!(fs::read(path).expect("the input"), b"bug");
}

/// Protects whoever repeats a run to find a finding again.
#[test]
fn the_same_seed_gives_the_same_inputs() {
    let inputs = |seed| {
        let mut chance = Chance::new(seed, "name");
        let corpus = [b"one input".to_vec(), b"another one".to_vec()];
        let mut next = || mutated(&mut chance, &corpus, &[], &["word"], 64);
        std::iter::repeat_with(&mut next)
            .take(200)
            .collect::<Vec<_>>()
    };
    assert_eq!(inputs(1), inputs(1));
    assert_ne!(inputs(1), inputs(2));
    assert!(inputs(1).iter().all(|input| input.len() <= 64));
}

/// Protects the pool of kept inputs from one for each number or name.
#[test]
fn ways_are_told_apart_by_words_alone() {
    assert_eq!(way("byte 17 of \"a\""), way("byte 4 of \"b\""));
    assert_ne!(way("byte 17"), way("line 17"));
}
