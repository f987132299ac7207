//! Taking faults from the kernel.

use super::Driver;
use crate::pager::core::CoreEvent;
use crate::pager::fault_source::FaultSource;

impl Driver {
    pub(super) fn take_faults(&mut self) -> bool {
        let mut faults = Vec::new();
        for (delivery, due) in self.deliveries.iter_mut().zip(&mut self.due) {
            if *due {
                let before = faults.len();
                // Nothing to read is an error too; a real one shows again.
                let _ = delivery.faults(&mut faults);
                // All that came later is told of anew.
                *due = faults.len() - before >= FaultSource::MOST;
            }
        }
        for fault in &faults {
            let area = self.areas.range(..=fault.address).next_back();
            if let Some((&start, &(len, object))) = area
                && fault.address - start < len
            {
                let page = ((fault.address - start) / self.page) as u64;
                self.event(CoreEvent::Fault {
                    object,
                    page,
                    write: fault.write || fault.protected,
                });
            }
        }
        !faults.is_empty()
    }
}
