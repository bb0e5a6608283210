//! Queueing handlers: what `post`, `submit`, `dispatch` and bound handlers have in common. Any attached thread.

use std::time::Duration;

use atoll_core::clock;
use atoll_core::mailbox::{Lane, PushError};
use atoll_core::stats::SlotIndex;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use crate::context::{checked, copy_current};
use crate::current;
use crate::error;
use crate::item::{Item, Job};
use crate::loop_core::LoopCore;
use crate::shared::DelayError;

impl LoopCore {
    /// A handler ready to be queued, with the poster's context unless another is given.
    #[inline]
    pub(crate) fn job(
        &self,
        py: Python<'_>,
        handler: Py<PyAny>,
        args: &Bound<'_, PyTuple>,
        slot: SlotIndex,
        lane: Lane,
        context: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Job> {
        let context = match context {
            Some(context) => checked(context)?,
            None => copy_current(py)?,
        };
        Ok(Job {
            handler,
            args: args.clone().unbind(),
            context,
            future: None,
            slot,
            lane,
            queued_at: if self.recording { clock::now() } else { 0 },
        })
    }

    /// Queues `job`, after a delay where one is injected. Any attached thread.
    #[inline]
    pub(crate) fn push(&self, py: Python<'_>, job: Job) -> PyResult<()> {
        if self.shared.is_injecting() {
            return self.push_after(py, job, 0.0).map(drop);
        }
        self.push_now(py, job)
    }

    #[inline]
    fn push_now(&self, _py: Python<'_>, job: Job) -> PyResult<()> {
        self.check_fork()?;
        let lane = job.lane;
        match self.shared.mailbox.push(lane, Item::Job(job)) {
            Ok(()) => Ok(()),
            Err(refused) => Err(self.refused(lane, &refused)),
        }
    }

    #[cold]
    fn refused(&self, lane: Lane, refused: &PushError<Item>) -> PyErr {
        match refused {
            PushError::Full(_) => error::mailbox_full(
                &self.shared.name,
                lane.name(),
                self.shared.mailbox.limit(lane),
            ),
            PushError::Closed(_) => error::loop_closed(&self.shared.name),
        }
    }

    /// Queues `job` after `delay` seconds, at once when it is zero. Returns its number while it waits.
    pub(crate) fn push_after(&self, py: Python<'_>, job: Job, delay: f64) -> PyResult<Option<u64>> {
        if !(0.0..=error::MAX_DELAY_SECONDS).contains(&delay) {
            return Err(error::bad_delay(delay));
        }
        self.check_fork()?;
        let mut delay = Duration::from_secs_f64(delay);
        if self.shared.is_injecting() {
            delay += self.shared.injected_delay(job.slot);
        }
        if delay.is_zero() {
            return self.push_now(py, job).map(|()| None);
        }
        match self.shared.delay(job.lane, Item::Job(job), delay) {
            Ok(number) => Ok(Some(number)),
            Err((DelayError::Closed, _)) => Err(error::loop_closed(&self.shared.name)),
            Err((DelayError::Full, _)) => Err(error::too_many_delayed(
                &self.shared.name,
                self.shared.max_delayed,
            )),
            Err((DelayError::NoThread(problem), _)) => Err(problem.into()),
        }
    }

    /// The slot for `name`, which defaults to the handler's qualified name.
    pub(crate) fn slot(
        &self,
        handler: &Bound<'_, PyAny>,
        name: Option<Bound<'_, PyString>>,
    ) -> PyResult<SlotIndex> {
        if !handler.is_callable() {
            return Err(error::not_callable(handler));
        }
        let name = match name {
            Some(name) => name,
            None => handler_name(handler)?,
        };
        self.named_slot(&name)
    }

    pub(crate) fn named_slot(&self, name: &Bound<'_, PyString>) -> PyResult<SlotIndex> {
        let slots = self.slots.bind(name.py());
        if let Some(index) = slots.get_item(name)? {
            return index.extract();
        }
        let index = self.shared.tracker().index(name.to_str()?);
        if index != atoll_core::stats::OTHER {
            slots.set_item(name, index)?;
        }
        Ok(index)
    }
}

/// How deep the function of a handler may be wrapped to give its name.
const MAX_WRAPPERS: usize = 16;

/// A handler's qualified name; for an object that has none, that of the function it wraps, or of its class.
pub(crate) fn handler_name<'py>(handler: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyString>> {
    let py = handler.py();
    let mut named = handler.clone();
    // Bounded: every attribute of a mock is another mock.
    for _ in 0..MAX_WRAPPERS {
        if let Some(name) = named.getattr_opt(intern!(py, "__qualname__"))? {
            return Ok(name.cast_into::<PyString>()?);
        }
        let Some(wrapped) = named.getattr_opt(intern!(py, "func"))? else {
            break;
        };
        named = wrapped;
    }
    named.get_type().qualname()
}

/// The lane named `lane`; that of the handler that posts when none is named.
pub(crate) fn parse_lane(py: Python<'_>, lane: Option<&str>) -> PyResult<Lane> {
    match lane {
        None => Ok(current::lane(py)),
        Some(name) => Lane::ALL
            .into_iter()
            .find(|lane| lane.name() == name)
            .ok_or_else(|| error::unknown_lane(name)),
    }
}
