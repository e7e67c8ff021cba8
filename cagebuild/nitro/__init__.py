"""The formats of Nitro Enclaves: ramdisks, image files, PCRs, signatures."""
