//! Which keys a connection asks for: those of its core, those of other cores, or any.

use std::sync::Arc;

use quoit_wire::topology::Topology;

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
    cores: Vec<u16>,
    /// Of each core of the server, the class of the connections that lead to it.
    class_of_core: Vec<Option<usize>>,
}

impl Routes {
    /// Routes for a server that has no cores to choose from.
    pub(crate) fn anywhere(connections: usize) -> Self {
        Self { route: Route::Any, topology: None, cores: vec![0; connections], class_of_core: vec![Some(0)] }
    }

    /// Routes by the topology to connections that lead to `cores`.
    pub(crate) fn by_topology(route: Route, topology: Arc<Topology>, cores: Vec<u16>) -> Self {
        let count = topology.nodes.iter().map(|node| usize::from(node.cores)).max().unwrap_or(1);
        let mut class_of_core = vec![None; count];
        let mut classes = 0;
        for &core in &cores {
            if let Some(class @ None) = class_of_core.get_mut(usize::from(core)) {
                *class = Some(classes);
                classes += 1;
            }
        }
        // With one core there is nothing to choose, and no other core to be wrong about.
        let route = if count == 1 { Route::Any } else { route };
        Self { route, topology: Some(topology), cores, class_of_core }
    }

    /// Whether `connection` may ask for `key`.
    ///
    /// Keys of a core that no connection leads to may be asked for anywhere: they would never be asked for otherwise.
    #[inline]
    pub(crate) fn allows(&self, connection: usize, key: &[u8]) -> bool {
        let (Some(topology), true) = (&self.topology, self.route != Route::Any) else { return true };
        let owner = topology.owner(key).core;
        match self.route {
            Route::Owner => owner == self.cores[connection] || self.class(owner).is_none(),
            Route::Wrong => owner != self.cores[connection],
            Route::Any => true,
        }
    }

    /// The class of each connection, from zero: connections of one class lead to the same core.
    pub(crate) fn classes(&self) -> Vec<usize> {
        self.cores.iter().map(|&core| self.class(core).unwrap_or(0)).collect()
    }

    /// The one class of connections that writes `key` when every key is to be written exactly once.
    pub(crate) fn writing_class(&self, key: &[u8]) -> usize {
        let (Some(topology), true) = (&self.topology, self.route != Route::Any) else { return 0 };
        let owner = topology.owner(key).core;
        let core = match self.route {
            Route::Wrong => self.cores.iter().copied().find(|&core| core != owner).unwrap_or(owner),
            Route::Owner | Route::Any => owner,
        };
        self.class(core).unwrap_or(0)
    }

    fn class(&self, core: u16) -> Option<usize> {
        if self.route == Route::Any { Some(0) } else { self.class_of_core.get(usize::from(core)).copied().flatten() }
    }
}

#[cfg(test)]
mod tests {
    use quoit_wire::topology::Node;

    use super::*;

    fn topology(cores: u16) -> Arc<Topology> {
        let node = Node { id: 1, incarnation: 1, address: "127.0.0.1:1".into(), zone: String::new(), cores, weight: 1 };
        Arc::new(Topology::standalone(node, 8, 42, 1))
    }

    fn keys() -> impl Iterator<Item = [u8; 8]> {
        (0..1000u64).map(u64::to_be_bytes)
    }

    #[test]
    fn an_owner_route_asks_each_key_on_its_core_alone() {
        let topology = topology(3);
        let routes = Routes::by_topology(Route::Owner, topology.clone(), vec![0, 1, 2, 0]);
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
    fn a_wrong_route_never_asks_the_owner() {
        let topology = topology(2);
        let routes = Routes::by_topology(Route::Wrong, topology.clone(), vec![0, 1]);
        for key in keys() {
            let owner = usize::from(topology.owner(&key).core);
            assert!(!routes.allows(owner, &key) && routes.allows(1 - owner, &key));
        }
    }

    #[test]
    fn one_class_writes_each_key_and_may_do_so() {
        for route in [Route::Owner, Route::Wrong, Route::Any] {
            for cores in [vec![0], vec![0, 1], vec![2, 0, 2], vec![0, 1, 2]] {
                let routes = Routes::by_topology(route, topology(3), cores);
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
            let routes = Routes::by_topology(route, topology(4), vec![1]);
            assert!(keys().all(|key| routes.allows(0, &key)));
        }
        let one_core = Routes::by_topology(Route::Wrong, topology(1), vec![0]);
        assert!(keys().all(|key| one_core.allows(0, &key)));
    }
}
