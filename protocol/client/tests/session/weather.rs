//! What holds in any weather: writes are applied once, reads see them, and in fair weather nothing fails.

use std::collections::HashMap;

use quoit_client::{Error, IncrementOptions, Item, Outcome, Request, SetOptions};
use rand::RngExt;

use crate::model;
use crate::world::{FAIR, LOSSY, OPTIONS, STORM, Weather, World, for_each_seed};

#[test]
fn writes_that_are_not_idempotent_are_applied_once_in_any_weather() {
    const COUNTERS: usize = 6;
    for_each_seed(80, |seed| {
        let weather = if seed % 2 == 0 { STORM } else { LOSSY };
        let mut world = World::new(seed, weather);
        world.cluster.tokens_rise = weather.refuses + weather.moves == 0;
        let mut asked: HashMap<u64, (usize, bool)> = HashMap::new();
        for _ in 0..1_500 {
            if world.rng.random_bool(0.4) {
                let counter = world.rng.random_range(0..COUNTERS);
                let appends = world.rng.random_bool(0.5);
                let tag = if appends {
                    let mark = format!("<{}>", world.next_tag + 1);
                    world.cluster.items.entry(format!("text-{counter}").into_bytes()).or_insert_with(empty);
                    world.submit(Request::append(format!("text-{counter}"), mark))
                } else {
                    let from_one = IncrementOptions { initial: Some(1), ttl: None };
                    world.submit(Request::increment(format!("counter-{counter}"), 1, from_one))
                };
                asked.insert(tag, (counter, appends));
            }
            world.step();
        }
        world.run_until_all_ended();
        assert!(world.cluster.repeats_recognised > 0, "some answers were lost");
        check_applied_once(&mut world, &asked, COUNTERS);
    });
}

fn empty() -> model::Item {
    model::Item { value: Vec::new(), version: quoit_wire::Version::new(1, 0), client_flags: 0 }
}

fn check_applied_once(world: &mut World, asked: &HashMap<u64, (usize, bool)>, counters: usize) {
    let mut acknowledged = vec![Vec::new(); counters];
    let mut in_doubt = vec![0; counters];
    for (tag, outcome) in world.ended.drain(..) {
        let (counter, appends) = asked[&tag];
        let result = outcome.into_one();
        if appends {
            let text = &world.cluster.items[format!("text-{counter}").as_bytes()].value;
            let text = str::from_utf8(text).expect("marks are text");
            let times = text.matches(&format!("<{tag}>")).count();
            match result {
                Ok(_) => assert_eq!(times, 1, "an acknowledged append stands once"),
                Err(error) if error.maybe_applied() => assert!(times <= 1, "{error}"),
                Err(error) => assert_eq!(times, 0, "{error}"),
            }
        } else {
            match result {
                Ok(answer) => {
                    let count = answer.into_counter().ok().flatten().expect("a counter that is made is there");
                    acknowledged[counter].push(count.value);
                }
                Err(error) => in_doubt[counter] += i64::from(error.maybe_applied()),
            }
        }
    }
    for counter in 0..counters {
        let count = world.cluster.counter(&format!("counter-{counter}"));
        let answers = &mut acknowledged[counter];
        let sum = answers.len() as i64;
        assert!(
            (sum..=sum + in_doubt[counter]).contains(&count),
            "{sum} + {} increments made {count}",
            in_doubt[counter]
        );
        answers.sort_unstable();
        answers.dedup();
        assert_eq!(answers.len() as i64, sum, "no two increments saw the same sum");
    }
}

#[test]
fn a_read_sees_the_last_acknowledged_write_in_any_weather() {
    for_each_seed(40, |seed| {
        let mut world = World::new(seed, STORM);
        // What the key may hold: the last acknowledged value, or one in doubt since.
        let mut possible: Vec<Option<Vec<u8>>> = vec![None];
        for number in 0..200 {
            match world.rng.random_range(0..3) {
                0 => {
                    let value = format!("value-{number}").into_bytes();
                    match world.call(Request::set("key", &value, SetOptions::default())) {
                        Ok(_) => possible = vec![Some(value)],
                        Err(error) if error.maybe_applied() => possible.push(Some(value)),
                        Err(_) => {}
                    }
                }
                1 => match world.call(Request::delete("key")) {
                    Ok(_) => possible = vec![None],
                    Err(error) if error.maybe_applied() => possible.push(None),
                    Err(_) => {}
                },
                _ => {
                    if let Ok(answer) = world.call(Request::get("key")) {
                        let value = answer.into_hit().unwrap().map(|hit| hit.value);
                        assert!(possible.contains(&value), "{value:?} is none of {possible:?}");
                        possible = vec![value];
                    }
                }
            }
        }
    });
}

#[test]
fn multi_operations_answer_every_key_with_its_own_in_any_weather() {
    for_each_seed(40, |seed| {
        let mut world = World::new(seed, STORM);
        let mut stored = 0;
        for round in 0..15 {
            let keys: Vec<String> =
                (0..world.rng.random_range(1..80)).map(|key| format!("key-{round}-{key}")).collect();
            let long = "x".repeat(if round % 3 == 0 { 900 } else { 10 });
            let values: Vec<String> = keys.iter().map(|key| format!("{key}{long}")).collect();
            let items = keys.iter().zip(&values);
            let items = items.map(|(key, value)| Item {
                key: key.as_bytes(),
                value: value.as_bytes(),
                ttl_ms: 0,
                client_flags: 0,
            });
            world.submit(Request::multi_set(items));
            world.run_until_all_ended();
            let (_, outcome) = world.ended.pop_front().unwrap();
            let results = outcome.into_many().unwrap();
            for (key, result) in keys.iter().zip(&results) {
                let is_none = result.as_ref().is_err_and(|error| !error.maybe_applied());
                assert!(!is_none || !world.cluster.items.contains_key(key.as_bytes()), "{key} is there: {result:?}");
            }
            let set: Vec<bool> = results.iter().map(Result::is_ok).collect();
            assert_eq!(set.len(), keys.len());

            world.submit(Request::multi_get(&keys));
            world.run_until_all_ended();
            let (_, outcome) = world.ended.pop_front().unwrap();
            let got = outcome.into_many().unwrap();
            assert_eq!(got.len(), keys.len());
            for ((answer, value), was_set) in got.into_iter().zip(&values).zip(set) {
                let Ok(answer) = answer else { continue };
                let hit = answer.into_hit().unwrap().map(|hit| hit.value);
                assert!(hit.is_none() || hit.as_deref() == Some(value.as_bytes()));
                assert!(hit.is_some() || !was_set, "what was set is there");
                stored += 1;
            }
        }
        assert!(stored > 0, "the weather let something through");
    });
}

#[test]
fn a_flush_covers_what_changes_hands_meanwhile() {
    for_each_seed(40, |seed| {
        // Where a connection is lost, its part is asked again, and not by another topology than the other parts.
        let loses = if seed % 2 == 0 { 0 } else { 10 };
        let mut world = World::new(seed, Weather { moves: 100, loses, ..FAIR });
        let mut done = 0;
        for round in 0..20 {
            for key in 0..16 {
                let set = Request::set(format!("key-{key}"), format!("{round}"), SetOptions::default());
                world.call(set).expect("little is in its way");
            }
            world.submit(Request::flush());
            world.run_until_all_ended();
            let (_, outcome) = world.ended.pop_back().expect("it has ended");
            let is_done = outcome.into_many().is_ok_and(|answers| answers.iter().all(Result::is_ok));
            assert!(
                !is_done || world.cluster.items.is_empty(),
                "round {round}: {:?} is left",
                world.cluster.items.keys()
            );
            done += u32::from(is_done);
        }
        assert!(done > 5, "only {done} flushes of 20 were done in time");
    });
}

#[test]
fn in_fair_weather_nothing_fails_and_the_order_of_sending_holds() {
    for_each_seed(30, |seed| {
        let mut world = World::new(seed, FAIR);
        let mut reads = HashMap::new();
        for number in 0..300u32 {
            let key = format!("key-{}", number % 7);
            world.submit(Request::set(&key, number.to_string(), SetOptions::default()));
            reads.insert(world.submit(Request::get(&key)), number);
            world.step();
        }
        world.run_until_all_ended();
        for (tag, outcome) in world.ended.drain(..) {
            let answer = outcome.into_one().expect("nothing fails");
            if let Some(number) = reads.get(&tag) {
                assert_eq!(answer.value, number.to_string().as_bytes(), "a get sees the set before it");
            }
        }
        assert!(world.hellos <= 7, "one connection per core, and at most one to find them");
    });
}

#[test]
fn a_full_client_says_busy_and_goes_on_when_there_is_room() {
    let mut world = World::new(1, FAIR);
    let tags: Vec<u64> = (0..5_000).map(|key| world.submit(Request::get(format!("key-{key}")))).collect();
    world.run_until_all_ended();
    let busy = world.ended.iter().filter(|(_, outcome)| matches!(outcome, Outcome::One(Err(Error::Busy)))).count();
    assert_eq!(busy, tags.len() - OPTIONS.requests_max);
    world.ended.clear();
    assert!(world.call(Request::ping("again")).is_ok());
}
