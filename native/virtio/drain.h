// The loop that every request queue is served with.
#ifndef CLEARVM_VIRTIO_DRAIN_H_
#define CLEARVM_VIRTIO_DRAIN_H_

#include <cstddef>

#include "native/virtio/device.h"

namespace clearvm::virtio {

// Hands each chain that is available in `queue` (number `index` of its device) to `handle`, which
// returns the bytes that it wrote, and adds it to the used ring. Ends when the queue is empty or
// when `budget` chains were served: then HandleQueue is called again after the loop's other events.
// A fault goes to the transport.
//
// The driver is signalled after every chain, so that a slow request does not hold back the reply of
// a quick one; event indices make that one interrupt for as long as the driver has not looked.
template <typename Handle>
void Drain(Queue& queue, size_t index, Interrupt* interrupt, Chain* chain, int budget,
           Handle handle) {
  queue.DisableNotification();
  do {
    while (budget > 0 && queue.Pop(chain)) {
      queue.AddUsed(*chain, handle(*chain));
      if (queue.NeedsInterrupt()) interrupt->SignalUsed();
      budget--;
    }
  } while (budget > 0 && queue.EnableNotification());
  if (queue.fault() != QueueFault::kNone) {
    interrupt->SignalNeedsReset(queue.fault());
  } else if (budget == 0) {
    interrupt->KickAgain(index);
  }
}

}  // namespace clearvm::virtio

#endif  // CLEARVM_VIRTIO_DRAIN_H_
