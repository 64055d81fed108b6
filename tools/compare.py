from densemtmd.commands.compare import main

if __name__ == "__main__":
    raise SystemExit(main())
