/**
 * An `HttpClient` that speaks only to addresses that it may speak to.
 *
 * A name is resolved once for each connection, what it resolves to is checked, and the connection goes to what was
 * checked: a name that means something else a moment later gains nothing. Every connection passes here, so what a
 * redirect leads to is checked like everything else. Connections are not kept, and redirects not followed.
 */
import { layerUndiciOptions } from "@effect/platform-node/NodeHttpClient"
import { buildConnector } from "@effect/platform-node/Undici"
import { type Layer, Schema } from "effect"
import type { HttpClient } from "effect/http"
import { lookup as systemLookup } from "node:dns"
import { isIP, type LookupFunction } from "node:net"
import { isPublic } from "./PublicAddress.ts"

export interface Options {
  /** Whether an IP address may be spoken to. Defaults to those of the public internet. */
  readonly allow?: ((address: string) => boolean) | undefined
  /** Resolves names. Defaults to what the system knows. */
  readonly lookup?: LookupFunction | undefined
}

/** The host has no address that may be spoken to. */
export class AddressRefused extends Schema.TaggedError<AddressRefused>()("AddressRefused", {
  host: Schema.String,
  addresses: Schema.Array(Schema.String)
}) {
  /** As a part of a sentence. */
  get detail(): string {
    return `${this.host} leads to ${this.addresses.join(", ") || "nowhere"}, which is not on the public internet`
  }
  override get message(): string {
    return `${this.detail}. Use the address of a public page.`
  }
}

/** Each request fails with a `TransportError` whose cause is `AddressRefused` when the host is none to speak to. */
export const layer = ({
  allow = isPublic,
  lookup = systemLookup
}: Options = {}): Layer.Layer<HttpClient.HttpClient> => {
  const connect = buildConnector({ lookup: guarded(lookup, allow), allowH2: false })
  return layerUndiciOptions({
    // No connection outlives its request.
    pipelining: 0,
    connect: (options, callback) => {
      const host = options.hostname.replace(/^\[|\]$/g, "")
      // An address needs no resolving, so the lookup never sees it.
      if (isIP(host) !== 0 && !allow(host)) callback(new AddressRefused({ host, addresses: [host] }), null)
      else connect(options, callback)
    }
  })
}

const guarded =
  (lookup: LookupFunction, allow: (address: string) => boolean): LookupFunction =>
  (host, options, callback) =>
    lookup(host, { ...options, all: true }, (error, found, family) => {
      if (error !== null) return callback(error, [])
      const all = typeof found === "string" ? [{ address: found, family: family ?? isIP(found) }] : found
      const [first, ...others] = all.filter(({ address }) => allow(address))
      if (first === undefined) {
        callback(new AddressRefused({ host, addresses: all.map(({ address }) => address) }), [])
      } else if (options.all === true) {
        callback(null, [first, ...others])
      } else {
        callback(null, first.address, first.family)
      }
    })
