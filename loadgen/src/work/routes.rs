//! Which keys a connection asks for: those of its core, those of other cores, or any. A core is a seat of the topology: one
//! core of one node.

use std::sync::Arc;

use quoit_wire::topology::{Seat, Topology};

/// How requests find a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Route {
    /// To the core that owns the key, as the native client does.
    #[default]
    Owner,
    /// Deliberately to another core.
    Wrong,
    /// To whichever connection is free.
    Any,
}

/// The routes of one generator thread.
#[derive(Clone, Debug)]
pub(crate) struct Routes {
    route: Route,
    /// Known with the native protocol only.
    topology: Option<Arc<Topology>>,
    /// The core of each connection.
    seats: Vec<Seat>,
    /// Of each core of each node, the class of the connections that lead to it.
    class_of_seat: Vec<Vec<Option<usize>>>,
}

impl Routes {
    /// Routes for a server that has no cores to choose from.
    pub(crate) fn anywhere(connections: usize) -> Self {
        let seats = vec![Seat { node: 0, core: 0 }; connections];
        Self { route: Route::Any, topology: None, seats, class_of_seat: vec![vec![Some(0)]] }
    }

    /// Routes by the topology to connections that lead to `seats`.
    pub(crate) fn by_topology(route: Route, topology: Arc<Topology>, seats: Vec<Seat>) -> Self {
        let mut class_of_seat: Vec<Vec<_>> =
            topology.nodes.iter().map(|node| vec![None; usize::from(node.cores)]).collect();
        let count: usize = class_of_seat.iter().map(Vec::len).sum();
        let mut classes = 0;
        for seat in &seats {
            let place = class_of_seat.get_mut(usize::from(seat.node)).and_then(|of| of.get_mut(usize::from(seat.core)));
            if let Some(class @ None) = place {
                *class = Some(classes);
                classes += 1;
            }
        }
        // With one core there is nothing to choose, and no other core to be wrong about.
        let route = if count == 1 { Route::Any } else { route };
        Self { route, topology: Some(topology), seats, class_of_seat }
    }

    /// Whether `connection` may ask for `key`.
    ///
    /// Keys of a core that no connection leads to may be asked for anywhere: they would never be asked for otherwise.
    #[inline]
    pub(crate) fn allows(&self, connection: usize, key: &[u8]) -> bool {
        let (Some(topology), true) = (&self.topology, self.route != Route::Any) else { return true };
        let owner = topology.owner(key);
        match self.route {
            Route::Owner => owner == self.seats[connection] || self.class(owner).is_none(),
            Route::Wrong => owner != self.seats[connection],
            Route::Any => true,
        }
    }

    /// The class of each connection, from zero: connections of one class lead to the same core.
    pub(crate) fn classes(&self) -> Vec<usize> {
        self.seats.iter().map(|&seat| self.class(seat).unwrap_or(0)).collect()
    }

    /// The one class of connections that writes `key` when every key is to be written exactly once.
    pub(crate) fn writing_class(&self, key: &[u8]) -> usize {
        let (Some(topology), true) = (&self.topology, self.route != Route::Any) else { return 0 };
        let owner = topology.owner(key);
        let seat = match self.route {
            Route::Wrong => self.seats.iter().copied().find(|&seat| seat != owner).unwrap_or(owner),
            Route::Owner | Route::Any => owner,
        };
        self.class(seat).unwrap_or(0)
    }

    fn class(&self, seat: Seat) -> Option<usize> {
        if self.route == Route::Any {
            return Some(0);
        }
        self.class_of_seat.get(usize::from(seat.node))?.get(usize::from(seat.core)).copied().flatten()
    }
}

#[cfg(test)]
mod tests {
    use quoit_wire::topology::{Node, Placement, REPLICAS_MAX};

    use super::*;

    fn topology(cores: u16) -> Arc<Topology> {
        let node = Node {
            id: 1,
            incarnation: 1,
            name: String::new(),
            address: "127.0.0.1:1".into(),
            zone: String::new(),
            cores,
            weight: 1,
        };
        Arc::new(Topology::standalone(node, 8, 42, 1))
    }

    fn seats(cores: &[u16]) -> Vec<Seat> {
        cores.iter().map(|&core| Seat { node: 0, core }).collect()
    }

    fn keys() -> impl Iterator<Item = [u8; 8]> {
        (0..1000u64).map(u64::to_be_bytes)
    }

    #[test]
    fn an_owner_route_asks_each_key_on_its_core_alone() {
        let topology = topology(3);
        let routes = Routes::by_topology(Route::Owner, topology.clone(), seats(&[0, 1, 2, 0]));
        for key in keys() {
            let allowed: Vec<usize> = (0..4).filter(|&connection| routes.allows(connection, &key)).collect();
            let expected: &[usize] = match topology.owner(&key).core {
                0 => &[0, 3],
                1 => &[1],
                _ => &[2],
            };
            assert_eq!(allowed, expected);
        }
    }

    #[test]
    fn cores_of_one_number_on_two_nodes_are_two() {
        let mut topology = (*topology(2)).clone();
        let second = Node { id: 2, ..topology.nodes[0].clone() };
        topology.nodes.push(second);
        topology.vnodes = (0..256)
            .map(|vnode: u16| Placement {
                primary: Seat { node: vnode % 2, core: vnode / 2 % 2 },
                replicas: [Seat::NOWHERE; REPLICAS_MAX],
                term: 1,
            })
            .collect();
        let connections: Vec<Seat> =
            [(0, 0), (1, 0), (0, 1), (1, 1)].into_iter().map(|(node, core)| Seat { node, core }).collect();
        let routes = Routes::by_topology(Route::Owner, Arc::new(topology.clone()), connections.clone());
        assert_eq!(routes.classes(), [0, 1, 2, 3]);
        for key in keys() {
            let allowed: Vec<usize> = (0..4).filter(|&connection| routes.allows(connection, &key)).collect();
            let owner = connections.iter().position(|&seat| seat == topology.owner(&key));
            assert_eq!(Some(allowed), owner.map(|owner| vec![owner]));
        }
    }

    #[test]
    fn a_wrong_route_never_asks_the_owner() {
        let topology = topology(2);
        let routes = Routes::by_topology(Route::Wrong, topology.clone(), seats(&[0, 1]));
        for key in keys() {
            let owner = usize::from(topology.owner(&key).core);
            assert!(!routes.allows(owner, &key) && routes.allows(1 - owner, &key));
        }
    }

    #[test]
    fn one_class_writes_each_key_and_may_do_so() {
        for route in [Route::Owner, Route::Wrong, Route::Any] {
            for cores in [vec![0], vec![0, 1], vec![2, 0, 2], vec![0, 1, 2]] {
                let routes = Routes::by_topology(route, topology(3), seats(&cores));
                let classes = routes.classes();
                for key in keys() {
                    let class = routes.writing_class(&key);
                    let mut writers = (0..classes.len()).filter(|&connection| classes[connection] == class);
                    let allowed = writers.clone().all(|connection| routes.allows(connection, &key));
                    assert!(writers.next().is_some());
                    assert!(allowed || (route == Route::Wrong && classes.iter().all(|&class| class == 0)));
                }
            }
        }
    }

    #[test]
    fn every_key_can_be_asked_when_connections_are_few() {
        for route in [Route::Owner, Route::Any] {
            let routes = Routes::by_topology(route, topology(4), seats(&[1]));
            assert!(keys().all(|key| routes.allows(0, &key)));
        }
        let one_core = Routes::by_topology(Route::Wrong, topology(1), seats(&[0]));
        assert!(keys().all(|key| one_core.allows(0, &key)));
    }
}
