/**
 * Which IP addresses belong to the public internet.
 *
 * What a user tells this server to fetch is fetched from inside its network, where other things listen: a database, a
 * router, the metadata service of a cloud with the credentials of the machine. So nothing but public addresses is spoken
 * to. The ranges are those of IANA's registries of special-purpose addresses.
 */
import { BlockList, isIPv4, isIPv6 } from "node:net"

/** Whether an IP address, as text, is one that anybody on the internet may speak to. False for anything else. */
export const isPublic = (address: string): boolean =>
  isIPv4(address)
    ? !special.check(address, "ipv4")
    : // An address with a zone is meant for this link only. An IPv4 address in the clothes of IPv6 is not in the global
      // range, whatever it hides.
      isIPv6(address)
      && !address.includes("%")
      && globalUnicast.check(address, "ipv6")
      && !special.check(address, "ipv6")

const special = new BlockList()

for (const [network, prefix] of [
  ["0.0.0.0", 8], // this network, and this machine
  ["10.0.0.0", 8], // private
  ["100.64.0.0", 10], // behind the address translation of a provider
  ["127.0.0.0", 8], // loopback
  ["169.254.0.0", 16], // link-local, and the metadata services of clouds
  ["172.16.0.0", 12], // private
  ["192.0.0.0", 24], // protocol assignments
  ["192.0.2.0", 24], // documentation
  ["192.88.99.0", 24], // relays from IPv6 to IPv4, no longer in use
  ["192.168.0.0", 16], // private
  ["198.18.0.0", 15], // benchmarks
  ["198.51.100.0", 24], // documentation
  ["203.0.113.0", 24], // documentation
  ["224.0.0.0", 4], // multicast
  ["240.0.0.0", 4] // reserved, and broadcast
] as const) {
  special.addSubnet(network, prefix, "ipv4")
}

for (const [network, prefix] of [
  ["2001::", 23], // protocol assignments, and Teredo, which hides an IPv4 address
  ["2001:db8::", 32], // documentation
  ["2002::", 16], // 6to4, which hides an IPv4 address
  ["3fff::", 20] // documentation
] as const) {
  special.addSubnet(network, prefix, "ipv6")
}

/** All that is handed out of IPv6. Loopback, private, link-local, multicast and mapped addresses lie outside of it. */
const globalUnicast = new BlockList()
globalUnicast.addSubnet("2000::", 3, "ipv6")
