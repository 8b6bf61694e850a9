//! The store in process, without sockets: hit ratios, speed, pauses, expiry, the hard cap.
//!
//! `cargo bench --bench store -- <part> [arguments]`; without a part it tells what there is. Everything is seeded. Each part
//! prints the figures that stand in `benches/README.md`.
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

mod churn;
mod clock;
mod exact;
mod pauses;
mod ratio;
mod speed;
mod state;
mod workload;

use std::process::ExitCode;

const PARTS: &str = "parts:
  ratio <trace>                 miss ratios of every policy on an oracleGeneral trace at 64 MiB, 256 MiB, 1 GiB
  synthetic                     hit ratios on seeded synthetic workloads
  speed [items]                 reads and writes against a hash map (10 million items)
  pauses [items MiB secs]       how long single calls take (30 million items, 4 GiB, 120 s), memory touched before
  first-touch [items MiB secs]  the same, memory touched by the calls
  expiry                        a million items that end over ten seconds
  cap [secs]                    mixed and changing sizes at the cap (60 s a phase)
  overwrite [secs]              overwrites with 85 % of the arena alive (60 s a row)
  density                       resident bytes per item
  state [items]                 saving and loading, without a disk (4 million items)";

fn main() -> ExitCode {
    // Cargo passes `--bench` along.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let number =
        |place: usize, default: u64| arguments.get(place).and_then(|text| text.parse().ok()).unwrap_or(default);
    match arguments.first().map(String::as_str) {
        Some("ratio") => {
            let trace = arguments.get(1).map_or("", String::as_str);
            if let Err(error) = ratio::trace(trace) {
                println!("trace {trace:?}: {error}");
                return ExitCode::FAILURE;
            }
        }
        Some("synthetic") => ratio::synthetic(),
        Some("speed") => speed::speed(number(1, 10_000_000)),
        Some(part @ ("pauses" | "first-touch")) => {
            let memory_bytes = number(2, 4096) as usize * (1 << 20);
            pauses::pauses(number(1, 30_000_000), memory_bytes, number(3, 120), part == "pauses");
        }
        Some("expiry") => churn::expiry(),
        Some("cap") => churn::cap(number(1, 60)),
        Some("overwrite") => churn::overwrite(number(1, 60)),
        Some("density") => churn::density(),
        Some("state") => state::state(number(1, 4_000_000)),
        _ => println!("{PARTS}"),
    }
    ExitCode::SUCCESS
}

/// How a figure's line ends that has a goal.
pub(crate) fn verdict(is_kept: bool) -> &'static str {
    if is_kept { "kept" } else { "missed" }
}
