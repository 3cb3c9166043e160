// How an ordinary user becomes root over files and mounts of their own: user_namespaces(7),
// newuidmap(1).
#ifndef CLEARVM_JAIL_USER_NAMESPACE_H_
#define CLEARVM_JAIL_USER_NAMESPACE_H_

#include <string>

#include "native/base/result.h"

namespace clearvm::jail {

struct UserNamespaceOptions {
  // The user's own directory for what lasts as long as the host is up. It gets a file `userns`, the
  // lock on which tells who keeps the namespaces.
  std::string directory;
  std::string user;  // the user's name, for /etc/subuid and /etc/subgid; empty: by number only
  std::string subuid = "/etc/subuid";
  std::string subgid = "/etc/subgid";
};

// Moves this process, while it has one thread, into the user and mount namespaces that all of the
// user's commands share; where there are none, makes them, and a process that does nothing but keep
// them (clearvm-pause), which holds the lock. Afterwards this process is root there, with all
// capabilities. The working directory stays. Where there are no subordinate ids for the user, root
// is the only id there is, and `warning` says so. Errors: ERR_USER_NAMESPACE.
Result<void> EnterUserNamespace(const UserNamespaceOptions& options, std::string* warning);

}  // namespace clearvm::jail

#endif  // CLEARVM_JAIL_USER_NAMESPACE_H_
