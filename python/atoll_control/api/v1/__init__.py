"""Generated from `atoll/v1`: the public services `NodeService` and `KvService`."""
