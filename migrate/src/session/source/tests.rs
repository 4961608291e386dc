//! The source's machine, step by step, and under random orders of inputs.

use proptest::prelude::*;

use super::*;

const ATTEMPT: Attempt = [1; 16];
const OTHER: Attempt = [2; 16];

fn node(byte: u8) -> PublicKey {
    PublicKey([byte; 32])
}

fn hash(byte: u8) -> Hash {
    Hash([byte; 32])
}

fn claim(attempt: Attempt, from: u8) -> Input {
    Input::Claim {
        attempt,
        destination: node(from),
        claim: hash(from),
    }
}

fn cut(attempt: Attempt, from: u8) -> Input {
    Input::Cut {
        attempt,
        from: node(from),
    }
}

fn done(attempt: Attempt) -> Input {
    Input::CutDone {
        attempt,
        root: hash(9),
    }
}

fn ready(attempt: Attempt, from: u8, root: u8) -> Input {
    Input::Ready {
        attempt,
        from: node(from),
        root: hash(root),
    }
}

struct Step {
    desc: &'static str,
    after: u64,
    input: Input,
    expect: Result<Effect, Refused>,
}

fn step(desc: &'static str, after: u64, input: Input, expect: Result<Effect, Refused>) -> Step {
    Step {
        desc,
        after,
        input,
        expect,
    }
}

fn play(steps: Vec<Step>) -> Source {
    let start = Instant::now();
    let mut source = Source::new(Timing::default(), start);
    let mut now = start + Duration::from_secs(60);
    for step in steps {
        now += Duration::from_secs(step.after);
        assert_eq!(source.handle(now, step.input), step.expect, "{}", step.desc);
    }
    source
}

fn stopped() -> Vec<Step> {
    vec![
        step("claim", 0, claim(ATTEMPT, 2), Ok(Effect::Agree)),
        step(
            "cut",
            0,
            cut(ATTEMPT, 2),
            Ok(Effect::BeginCut { attempt: ATTEMPT }),
        ),
        step("cut done", 1, done(ATTEMPT), Ok(Effect::Agree)),
    ]
}

#[test]
fn a_hand_over_runs_through() {
    let mut steps = stopped();
    let sign = Effect::Sign {
        attempt: ATTEMPT,
        destination: node(2),
        claim: hash(2),
        root: hash(9),
    };
    steps.push(step("ready", 1, ready(ATTEMPT, 2, 9), Ok(sign)));
    steps.push(step(
        "signed once per epoch",
        0,
        ready(ATTEMPT, 2, 9),
        Err(Refused::Busy),
    ));
    steps.push(step(
        "silence after the signature means nothing",
        3600,
        Input::Tick,
        Ok(Effect::Agree),
    ));
    steps.push(step(
        "nor does a cancel",
        0,
        Input::Cancel {
            attempt: ATTEMPT,
            from: node(2),
        },
        Ok(Effect::Agree),
    ));
    assert!(play(steps).is_cut());
}

#[test]
fn before_the_signature_the_source_rolls_back() {
    let back = Ok(Effect::RollBack { attempt: ATTEMPT });
    let cancel = Input::Cancel {
        attempt: ATTEMPT,
        from: node(2),
    };
    for (desc, after, input) in [("silence", 5, Input::Tick), ("cancel", 0, cancel)] {
        let mut steps = stopped();
        steps.push(step(desc, after, input, back.clone()));
        steps.push(step(
            "ready comes too late",
            0,
            ready(ATTEMPT, 2, 9),
            Err(Refused::Void),
        ));
        steps.push(step("a second attempt", 0, claim(OTHER, 2), Ok(Effect::Agree)));
        steps.push(step(
            "is cut",
            0,
            cut(OTHER, 2),
            Ok(Effect::BeginCut { attempt: OTHER }),
        ));
        play(steps);
    }
    let mut steps = stopped();
    steps.truncate(2);
    steps.push(step(
        "the engine failed",
        0,
        Input::CutFailed { attempt: ATTEMPT },
        back,
    ));
    assert!(!play(steps).is_cut());
}

#[test]
fn only_the_claimant_of_the_stopped_state_gets_the_signature() {
    let mut steps = stopped();
    steps.push(step(
        "another state",
        0,
        ready(ATTEMPT, 2, 8),
        Err(Refused::OtherRoot),
    ));
    steps.push(step(
        "another member",
        0,
        ready(ATTEMPT, 3, 9),
        Err(Refused::Void),
    ));
    steps.push(step("another attempt", 0, ready(OTHER, 2, 9), Err(Refused::Void)));
    steps.push(step(
        "a new claim in the cut",
        0,
        claim(OTHER, 3),
        Err(Refused::Busy),
    ));
    play(steps);
}

#[test]
fn a_sign_of_life_keeps_the_cut_and_a_lost_answer_is_repeated() {
    let mut steps = stopped();
    let alive = Input::Alive {
        attempt: ATTEMPT,
        from: node(2),
    };
    steps.push(step("alive", 4, alive.clone(), Ok(Effect::Agree)));
    steps.push(step("tick", 4, Input::Tick, Ok(Effect::Agree)));
    steps.push(step(
        "cut asked again",
        0,
        cut(ATTEMPT, 2),
        Ok(Effect::RepeatStopped { attempt: ATTEMPT }),
    ));
    steps.push(step("tick", 4, Input::Tick, Ok(Effect::Agree)));
    play(steps);
}

#[test]
fn claims_expire_and_are_one_per_member() {
    play(vec![
        step("cut without a claim", 0, cut(ATTEMPT, 2), Err(Refused::Void)),
        step("claim", 0, claim(ATTEMPT, 2), Ok(Effect::Agree)),
        step("the member tries again", 0, claim(OTHER, 2), Ok(Effect::Agree)),
        step(
            "its older attempt is void",
            0,
            cut(ATTEMPT, 2),
            Err(Refused::Void),
        ),
        step(
            "another member's name is not taken",
            0,
            claim(OTHER, 3),
            Err(Refused::Void),
        ),
        step("time passes", 31, Input::Tick, Ok(Effect::Agree)),
        step("too late", 0, cut(OTHER, 2), Err(Refused::Void)),
    ]);
}

#[test]
fn min_stay_holds_for_all_but_the_owners_own_wish() {
    let start = Instant::now();
    let mut source = Source::new(Timing::default(), start);
    assert_eq!(
        source.handle(start, Input::Want { invited: false }),
        Err(Refused::TooSoon)
    );
    assert_eq!(
        source.handle(start, Input::Want { invited: true }),
        Ok(Effect::Agree)
    );
    let later = start + Timing::default().min_stay;
    assert_eq!(
        source.handle(later, Input::Want { invited: false }),
        Ok(Effect::Agree)
    );
}

fn any_input() -> impl Strategy<Value = Input> {
    let attempt = prop_oneof![Just(ATTEMPT), Just(OTHER)];
    let who = 2_u8..4;
    prop_oneof![
        (attempt.clone(), who.clone()).prop_map(|(attempt, from)| claim(attempt, from)),
        (attempt.clone(), who.clone()).prop_map(|(attempt, from)| cut(attempt, from)),
        attempt.clone().prop_map(done),
        attempt.clone().prop_map(|attempt| Input::CutFailed { attempt }),
        (attempt.clone(), who.clone(), 8_u8..10).prop_map(|(attempt, from, root)| ready(attempt, from, root)),
        (attempt.clone(), who.clone()).prop_map(|(attempt, from)| Input::Alive {
            attempt,
            from: node(from)
        }),
        (attempt, who).prop_map(|(attempt, from)| Input::Cancel {
            attempt,
            from: node(from)
        }),
        Just(Input::Tick),
    ]
}

proptest! {
    /// Whatever comes in whatever order: at most one signature, only for a stopped container, and nothing runs after it.
    #[test]
    fn source_props_one_signature_and_no_way_back(inputs in prop::collection::vec((any_input(), 0_u64..7), 0..60)) {
        let start = Instant::now();
        let mut source = Source::new(Timing::default(), start);
        let mut now = start;
        let (mut down, mut signed) = (false, 0);
        for (input, after) in inputs {
            now += Duration::from_secs(after);
            let was_done = matches!(input, Input::CutDone { .. });
            match source.handle(now, input) {
                Ok(Effect::BeginCut { .. }) => {
                    prop_assert!(signed == 0);
                }
                Ok(Effect::RollBack { .. }) => {
                    prop_assert!(signed == 0, "rolled back after the signature");
                    down = false;
                }
                Ok(Effect::Sign { .. }) => {
                    prop_assert!(down, "signed while the container may run");
                    signed += 1;
                }
                Ok(Effect::Agree) if was_done => down = true,
                Ok(_) | Err(_) => {}
            }
            prop_assert!(signed <= 1);
            if signed == 1 {
                prop_assert!(source.is_cut());
            }
        }
    }
}
