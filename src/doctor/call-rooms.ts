// Which rules make rooms that we take for calls.

import { callPrefix } from "../carriers/provisioning.ts"
import type { DispatchRule } from "../livekit/sip.ts"

/** Whether the rule's rooms begin as those do whose callers we hand over. */
export const isCallRoomName = ({ roomName, roomPrefix }: DispatchRule): boolean =>
  (roomPrefix || roomName).startsWith(callPrefix)
