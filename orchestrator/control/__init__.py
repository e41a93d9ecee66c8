"""What people and programs can ask of a store's queue, directly or over HTTP."""
