from densemtmd.commands.correlate import main

if __name__ == "__main__":
    raise SystemExit(main())
