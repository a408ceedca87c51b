import { assert, describe, it } from "@effect/vitest"
import { isPublic } from "../src/fetching/PublicAddress.ts"

describe("PublicAddress", () => {
  it("refuses the first and the last address of every range that is not the public internet", () => {
    for (const address of [
      "0.0.0.0",
      "0.255.255.255",
      "10.0.0.0",
      "10.255.255.255",
      "100.64.0.0",
      "100.127.255.255",
      "127.0.0.0",
      "127.0.0.1",
      "127.255.255.255",
      "169.254.0.0",
      "169.254.169.254",
      "169.254.255.255",
      "172.16.0.0",
      "172.31.255.255",
      "192.0.0.0",
      "192.0.0.255",
      "192.0.2.1",
      "192.88.99.1",
      "192.168.0.0",
      "192.168.255.255",
      "198.18.0.0",
      "198.19.255.255",
      "198.51.100.1",
      "203.0.113.1",
      "224.0.0.0",
      "239.255.255.255",
      "240.0.0.0",
      "255.255.255.255"
    ]) {
      assert.isFalse(isPublic(address), address)
    }
    for (const address of ["::", "::1", "fc00::", "fdff::1", "fe80::1", "febf::1", "fec0::1", "ff02::1", "100::1"]) {
      assert.isFalse(isPublic(address), address)
    }
  })

  it("refuses addresses of IPv6 that stand for one of IPv4, written in any way", () => {
    for (const address of [
      "::ffff:127.0.0.1",
      "::ffff:7f00:1",
      "0:0:0:0:0:ffff:7f00:0001",
      "::FFFF:a9fe:a9fe",
      "::127.0.0.1",
      "64:ff9b::7f00:1",
      "64:ff9b:1::1",
      "2002:7f00:1::",
      "2001:0:7f00:1::",
      "::ffff:0:127.0.0.1"
    ]) {
      assert.isFalse(isPublic(address), address)
    }
  })

  it("takes the addresses next to those ranges", () => {
    for (const address of [
      "1.0.0.0",
      "9.255.255.255",
      "11.0.0.0",
      "100.63.255.255",
      "100.128.0.0",
      "126.255.255.255",
      "128.0.0.0",
      "169.253.255.255",
      "169.255.0.0",
      "172.15.255.255",
      "172.32.0.0",
      "192.0.1.0",
      "192.167.255.255",
      "192.169.0.0",
      "198.17.255.255",
      "198.20.0.0",
      "223.255.255.255",
      "2606:4700::1111",
      "2a00:1450::1"
    ]) {
      assert.isTrue(isPublic(address), address)
    }
  })

  it("takes nothing for an address that is none", () => {
    for (const text of [
      "",
      "localhost",
      "1.1.1",
      "1.1.1.1.",
      "0x08080808",
      "2a00::1%eth0",
      "[2a00::1]",
      "1.1.1.1:80"
    ]) {
      assert.isFalse(isPublic(text), text)
    }
  })
})
