//! The calls of one socket read, one batch per dispatch target.

use std::sync::Arc;

use super::call::Call;
use super::routes::Routes;

/// Calls that wait to be dispatched. The vectors are kept from batch to batch.
pub(super) struct Batches {
    /// By the target's index.
    calls: Vec<Vec<Arc<Call>>>,
    /// The targets whose batch is not empty, in the order of their first call.
    targets: Vec<usize>,
    /// Streaming calls whose handlers wait no longer, by the target's index.
    progress: Vec<Vec<Arc<Call>>>,
    progressed: Vec<usize>,
}

impl Batches {
    pub(super) fn new(routes: &Routes) -> Self {
        let empty = || (0..routes.target_count()).map(|_| Vec::new()).collect();
        Self {
            calls: empty(),
            targets: Vec::new(),
            progress: empty(),
            progressed: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, call: Arc<Call>) {
        let index = call.target_index();
        let batch = &mut self.calls[index];
        if batch.is_empty() {
            self.targets.push(index);
        }
        batch.push(call);
    }

    /// The handler of a streaming call waits no longer.
    pub(super) fn push_progress(&mut self, call: &Arc<Call>) {
        if call.tell_other() {
            return;
        }
        let index = call.target_index();
        let batch = &mut self.progress[index];
        if batch.is_empty() {
            self.progressed.push(index);
        }
        batch.push(Arc::clone(call));
    }

    /// Hands each target its batch, and tells it of progress.
    pub(super) fn dispatch(&mut self) {
        for index in self.targets.drain(..) {
            let calls = &mut self.calls[index];
            let Some(first) = calls.first() else { continue };
            let target = Arc::clone(first.target());
            target.dispatch(calls);
            for call in calls.drain(..) {
                call.not_taken();
            }
        }
        for index in self.progressed.drain(..) {
            let calls = &mut self.progress[index];
            if let Some(first) = calls.first() {
                let target = Arc::clone(first.target());
                target.progress(calls);
                calls.clear();
            }
        }
    }

    /// Takes the calls that no target has seen.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Arc<Call>> + '_ {
        self.targets.clear();
        self.calls.iter_mut().flat_map(|calls| calls.drain(..))
    }
}
