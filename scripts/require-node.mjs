// Importing this module, before any other, ends the process with one clear line on a Node that is too old.
import { requireNode } from "./node-version.mjs"

requireNode()
