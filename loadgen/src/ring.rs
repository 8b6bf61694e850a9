//! The ring on paper: how evenly a cluster's vnodes lie, and what moves when nodes come and go.
//!
//! It asks the assignment that the cluster's leader uses, and no server: scale can be judged before there is any.

use std::fmt::Write;

use quoit_wire::assignment::{AssignmentError, assign};
use quoit_wire::topology::{Node, Placement, Seat};
use serde::Serialize;

use crate::cli::RingArgs;

/// What happened to a cluster of these options, step by step.
#[derive(Debug, Serialize)]
pub(crate) struct RingReport {
    vnodes: usize,
    replicas: usize,
    steps: Vec<Step>,
}

/// The cluster after one thing has happened to it.
#[derive(Debug, Serialize)]
struct Step {
    what: String,
    nodes: usize,
    primaries_per_weight: Spread,
    copies_per_weight: Spread,
    /// Vnodes whose primary is another node than before.
    primaries_moved: usize,
    /// Copies on nodes that had none of the vnode.
    copies_new: usize,
    /// The fewest new copies with which every node has as many as it has.
    copies_new_least: usize,
    /// Vnodes of which two copies share a zone.
    zone_shared: usize,
}

/// Vnodes per unit of weight, of the node that has least and of the one that has most.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Spread {
    least: f64,
    most: f64,
}

/// Founds a cluster, lets nodes join, and others go.
pub(crate) fn judge(args: &RingArgs) -> Result<RingReport, AssignmentError> {
    let node = |index: usize| Node {
        id: index as u64 + 1,
        incarnation: 1,
        name: String::new(),
        address: String::new(),
        zone: format!("zone-{}", index % usize::from(args.zones)),
        cores: args.node_cores,
        weight: args.weights[index % args.weights.len()],
    };
    let founders = usize::from(args.nodes);
    let mut nodes: Vec<Node> = (0..founders).map(node).collect();
    let nothing = vec![Placement::NOWHERE; 1 << args.vnode_bits];
    let mut report = RingReport { vnodes: nothing.len(), replicas: usize::from(args.replicas), steps: Vec::new() };
    let mut placements = report.step("founded".to_owned(), &nodes, &nothing)?;
    for joined in 0..usize::from(args.joins) {
        nodes.push(node(founders + joined));
        placements = report.step(format!("node {} joins", founders + joined + 1), &nodes, &placements)?;
    }
    for _ in 0..args.losses {
        if nodes.len() == 1 {
            break;
        }
        // From the middle: neither the first nor the newest.
        let lost = nodes.len() / 2;
        let id = nodes.remove(lost).id;
        placements.iter_mut().for_each(|placement| forget(placement, lost));
        placements = report.step(format!("node {id} is lost"), &nodes, &placements)?;
    }
    Ok(report)
}

/// Takes a node out of a placement; those behind it in the list move up.
fn forget(placement: &mut Placement, lost: usize) {
    for seat in std::iter::once(&mut placement.primary).chain(&mut placement.replicas) {
        match usize::from(seat.node) {
            _ if *seat == Seat::NOWHERE => {}
            node if node == lost => *seat = Seat::NOWHERE,
            node => seat.node -= u16::from(node > lost),
        }
    }
}

impl RingReport {
    fn step(&mut self, what: String, nodes: &[Node], before: &[Placement]) -> Result<Vec<Placement>, AssignmentError> {
        let after = assign(nodes, before, self.replicas)?;
        let spread = |counts: &[usize]| {
            let loads = || counts.iter().zip(nodes).map(|(count, node)| *count as f64 / f64::from(node.weight));
            Spread { least: loads().fold(f64::INFINITY, f64::min), most: loads().fold(0.0, f64::max) }
        };
        let primaries = |placements: &[Placement]| count(nodes, placements, |placement| vec![placement.primary]);
        let copies = |placements: &[Placement]| count(nodes, placements, |placement| placement.seats().collect());
        let holds = |placement: &Placement, node: u16| placement.seats().any(|seat| seat.node == node);
        let both = || before.iter().zip(&after);
        let gained =
            copies(&after).iter().zip(copies(before)).map(|(after, before)| after.saturating_sub(before)).sum();
        self.steps.push(Step {
            what,
            nodes: nodes.len(),
            primaries_per_weight: spread(&primaries(&after)),
            copies_per_weight: spread(&copies(&after)),
            primaries_moved: both().filter(|(before, after)| before.primary.node != after.primary.node).count(),
            copies_new: both()
                .map(|(before, after)| after.seats().filter(|seat| !holds(before, seat.node)).count())
                .sum(),
            copies_new_least: gained,
            zone_shared: after.iter().filter(|placement| shares_a_zone(nodes, placement)).count(),
        });
        Ok(after)
    }

    /// The table that people read.
    pub(crate) fn to_text(&self) -> String {
        let mut text = format!("{} vnodes, {} replicas of each\n", self.vnodes, self.replicas);
        text += "                  nodes  primaries per weight     copies per weight  primaries  copies new   copies that\n";
        text +=
            "                            least      most       least      most      moved     (fewest)  share a zone\n";
        for step in &self.steps {
            let (primaries, copies) = (step.primaries_per_weight, step.copies_per_weight);
            let new = format!("{} ({})", step.copies_new, step.copies_new_least);
            let _ = writeln!(
                text,
                "{:<17} {:>5}  {:>9.2} {:>9.2}   {:>9.2} {:>9.2}  {:>9}  {:>11}  {:>12}",
                step.what,
                step.nodes,
                primaries.least,
                primaries.most,
                copies.least,
                copies.most,
                step.primaries_moved,
                new,
                step.zone_shared
            );
        }
        text
    }
}

fn count(nodes: &[Node], placements: &[Placement], seats: impl Fn(&Placement) -> Vec<Seat>) -> Vec<usize> {
    let mut counts = vec![0; nodes.len()];
    for seat in placements.iter().flat_map(seats).filter(|seat| *seat != Seat::NOWHERE) {
        counts[usize::from(seat.node)] += 1;
    }
    counts
}

fn shares_a_zone(nodes: &[Node], placement: &Placement) -> bool {
    let mut zones: Vec<&str> = placement.seats().map(|seat| nodes[usize::from(seat.node)].zone.as_str()).collect();
    let copies = zones.len();
    zones.sort_unstable();
    zones.dedup();
    zones.len() < copies
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(nodes: u16, weights: &[u16]) -> RingArgs {
        RingArgs {
            nodes,
            weights: weights.to_vec(),
            zones: 3,
            replicas: 1,
            vnode_bits: 12,
            node_cores: 8,
            joins: 1,
            losses: 1,
            json: None,
        }
    }

    #[test]
    fn a_hundred_nodes_are_even_and_move_their_share() {
        let report = judge(&args(100, &[1])).expect("it can be assigned");
        let [founded, joined, lost] = &report.steps[..] else { panic!("three steps: {report:?}") };
        assert_eq!(founded.primaries_per_weight, Spread { least: 40.0, most: 41.0 });
        assert_eq!(founded.copies_new, 2 * 4096);
        assert_eq!((joined.nodes, joined.primaries_moved), (101, 4096 / 101));
        assert!(lost.primaries_moved <= 41 && lost.copies_new >= lost.copies_new_least);
        assert!(report.steps.iter().all(|step| step.zone_shared == 0));
        assert!(report.to_text().contains("node 101 joins"));
    }

    #[test]
    fn heavy_nodes_have_more_and_the_last_one_is_never_lost() {
        let report = judge(&RingArgs { losses: 9, ..args(2, &[1, 3]) }).expect("it can be assigned");
        let spread = |step: &Step| step.primaries_per_weight.most - step.primaries_per_weight.least;
        assert!(report.steps.iter().all(|step| spread(step) <= 1.0));
        assert_eq!(report.steps.last().map(|step| step.nodes), Some(1));
    }
}
